r"""Stop strings: a response ends with the first token that completes one of them.

The tokens that spell the string are sampled tokens like any other: they stay in the response, with their
log-probs, and are trained on. Both engines end a response at the same token, because both ask `StopText`.

Usage: `stop = StopText.build(tokenizer, ["\n\n"])`, then `stop.end(ids)`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from transformers import PreTrainedTokenizerBase

from alpkit.rollout import Response


class StopText(NamedTuple):
    """Stop strings, and how token ids become text."""

    strings: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]
    window: int
    """Last tokens in which a string that has just been completed must lie: a token is at least a byte."""

    @classmethod
    def build(cls, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> Self | None:
        """Give the stopping rule of some strings; None without any."""
        if not strings:
            return None

        def decode(ids: Sequence[int]) -> str:
            text = tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            return str(text)

        # A few more: a word piece may begin before the string does.
        return cls(tuple(strings), decode, max(len(text.encode()) for text in strings) + 4)

    def hit(self, ids: Sequence[int]) -> bool:
        """Whether the last of `ids` completes a stop string, given that no earlier one did."""
        text = self.decode(ids[-self.window :])
        return any(string in text for string in self.strings)

    def end(self, ids: Sequence[int]) -> int | None:
        """Count the tokens up to the one that completes a stop string; None where none does."""
        if not self.hit_anywhere(ids):
            return None
        return next((n for n in range(1, len(ids) + 1) if self.hit(ids[:n])), None)

    def hit_anywhere(self, ids: Sequence[int]) -> bool:
        """Whether a stop string stands in the text of `ids`."""
        text = self.decode(ids)
        return any(string in text for string in self.strings)

    def cut(self, response: Response) -> Response:
        """End a response where its first stop string is complete."""
        end = self.end(response.token_ids)
        if end is None:
            return response
        top = None if response.top is None else response.top.until(end)
        return Response(response.token_ids[:end], response.logp[:end], "stop", top=top)


def before_stop(text: str, strings: Sequence[str]) -> str:
    """Give the text before the first stop string: what is scored."""
    places = [at for string in strings if (at := text.find(string)) >= 0]
    return text[: min(places)] if places else text
