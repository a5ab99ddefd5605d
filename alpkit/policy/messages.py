"""Token ids of what an environment says between two turns of the model, as the chat template would put it.

The model's own tokens are never encoded again: a message is the ids that follow them. Its text is data: whatever
stands in it, `<|im_end|>` or any other special token, becomes ordinary tokens, so that a tool's output can end
nothing and open no turn. Usage: `Messages.of(tokenizer, prompt, stop_ids=ids).after(last_token, reply, limit=256)`.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from transformers import PreTrainedTokenizerBase

from alpkit.config.tasks import PromptConfig
from alpkit.errors import ConfigError
from alpkit.tasks.environments import Reply

_TURN, _REPLY = "alpkit-turn-of-the-model", "alpkit-reply-of-the-environment"
_PLAIN: Final = "\n"
"""Without a chat template a message stands on lines of its own."""


class Messages(NamedTuple):
    """The template's part of every message, and how its text becomes ordinary tokens."""

    tokenizer: PreTrainedTokenizerBase
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    stop_ids: frozenset[int]

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptConfig,
        *,
        stop_ids: Sequence[int],
        role: str = "user",
    ) -> "Messages":
        """Read from the tokenizer's template what stands around a message of `role`.

        `ConfigError` where the template shows no message between two turns.
        """
        opening, closing = _PLAIN, _PLAIN
        if prompt.template == "auto" and getattr(tokenizer, "chat_template", None):
            opening, closing = _around(tokenizer, prompt, role)
        return cls(
            tokenizer, _encode(tokenizer, opening), _encode(tokenizer, closing), frozenset(stop_ids)
        )

    def after(self, last: int, reply: Reply, *, limit: int) -> tuple[int, ...]:
        """Give the ids that follow a turn whose last token is `last`; `reply.text` is cut to `limit` tokens.

        An end token that the model has sampled itself is not said twice.
        """
        opening = self.opening
        if last in self.stop_ids and opening[:1] and opening[0] in self.stop_ids:
            opening = opening[1:]
        return (
            *opening,
            *self.ordinary(reply.before),
            *self.ordinary(reply.text)[:limit],
            *self.ordinary(reply.after),
            *self.closing,
        )

    def ordinary(self, text: str) -> tuple[int, ...]:
        """Encode `text` without any special or added token, whatever it spells; what has no token vanishes."""
        ids = _encode(self.tokenizer, text, split=True)
        known = dict(getattr(self.tokenizer, "added_tokens_encoder", {}))
        special = set(known.values()) | self.stop_ids
        if not special & set(ids):
            return ids
        # Added tokens that are not flagged special: cut each behind its first character.
        spelt = "|".join(
            re.escape(token) for token in sorted(known, key=len, reverse=True) if token
        )
        cuts = [match.start() + 1 for match in re.finditer(spelt, text)] if spelt else []
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        found = (token for piece in pieces for token in _encode(self.tokenizer, piece, split=True))
        return tuple(token for token in found if token not in special)


def _around(tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig, role: str) -> tuple[str, str]:
    """Give the template's text between a turn and the message after it, and between that and the next turn."""
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    messages = [
        *system,
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": _TURN},
        {"role": role, "content": _REPLY},
    ]
    try:
        shown = str(
            tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False, **prompt.template_args
            )
        )
        why = f"it shows {shown!r:.300}"
    except Exception as error:  # whatever a template of jinja raises
        shown, why = "", str(error).strip().partition("\n")[0]
    if (
        shown.count(_TURN) != 1
        or shown.count(_REPLY) != 1
        or shown.find(_TURN) > shown.find(_REPLY)
    ):
        raise ConfigError(
            f"the model's chat template has no message of the role {role!r} between two turns",
            where="environment.role",
            why=why,
            fix="set environment.role: user, or prompt.template: none",
        )
    between, _, closing = shown.partition(_TURN)[2].partition(_REPLY)
    return between, closing


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str, *, split: bool = False
) -> tuple[int, ...]:
    if not text:
        return ()
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=split)
    return tuple(encoded["input_ids"])
