"""Load the model that is trained, and encode its prompts.

Weights are always loaded as float32 masters in eval mode; a run's `dtype: bfloat16` is autocast
over them. `Policy.source` is a folder that a second engine can load the very same weights from.

Usage: `policy = load_policy("builtin:tiny-addition")`.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from alpkit.config.tasks import PLAIN_PROMPT, PromptConfig
from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.policy.folders import BUILTINS, local_folder
from alpkit.policy.perturbation.sites import decoder_layers


class Policy(NamedTuple):
    """A loaded policy; `source` is a folder that holds the same weights and tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str


def load_policy(name: str, *, revision: str | None = None) -> Policy:
    """Load `builtin:…`, a local folder or a hub id as float32 masters in eval mode, on the CPU."""
    folder = local_folder(name)
    if folder is not None and revision is not None:
        raise ConfigError(
            f"revision {revision!r} has no effect on {name}",
            where="revision",
            why="only models of the hub have revisions",
            fix="remove revision, or name a hub id as model",
        )
    try:
        # A hub id is pinned to one commit: a second engine could resolve the id to another.
        origin, commit = (str(folder), None) if folder else (name, _commit(name, revision))
        with _without_progress_bars():
            tokenizer = load_tokenizer(origin, commit)
            model = AutoModelForCausalLM.from_pretrained(
                origin,
                revision=commit,
                dtype=torch.float32,
                attn_implementation="sdpa",
                trust_remote_code=False,
            )
        source = folder or _snapshot(name, commit)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if asks_for_its_own_code(error):
            raise own_code(name) from error
        raise PrerequisiteError(
            f"model {name} cannot be loaded",
            where="model",
            why=_first_line(error),
            fix="give a folder as save_pretrained writes it: config.json, weights, tokenizer"
            if folder
            else f"check the id and download it where there is a network (hf download {name}), or "
            f"use a local folder, {' or '.join(BUILTINS)}; HF_HUB_OFFLINE=1 skips the retries",
        ) from error
    model.eval()
    decoder_layers(model)
    return Policy(model, tokenizer, str(source))


def load_tokenizer(origin: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer; a model's own code is never run, whatever stands in its folder."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        origin, revision=revision, trust_remote_code=False
    )
    return tokenizer


def asks_for_its_own_code(error: Exception) -> bool:
    """Whether transformers refused because the model comes with Python code."""
    return "trust_remote_code" in str(error)


def own_code(name: str) -> PrerequisiteError:
    """The refusal of a model that needs its own code."""
    return PrerequisiteError(
        f"model {name} comes with Python code of its own, which alpkit does not run",
        where="model",
        why="whoever wrote the folder would run code as you, in every cell",
        fix="use an architecture that transformers itself has, or convert the model to one",
    )


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, prompt: PromptConfig = PLAIN_PROMPT
) -> tuple[int, ...]:
    """Encode a question as the user's turn of the chat template; without a template, as it stands.

    Special tokens come from the template or not at all, so that ids are the same for every engine.
    """
    text = question + prompt.suffix
    if _has_template(tokenizer) and prompt.template == "auto":
        system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
        encoded = tokenizer.apply_chat_template(
            [*system, {"role": "user", "content": text}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            **prompt.template_args,
        )
    else:
        text = text if prompt.system is None else f"{prompt.system}\n\n{text}"
        encoded = tokenizer(text, add_special_tokens=False)
    return tuple(encoded["input_ids"])


def check_prompt(tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig) -> None:
    """Raise `ConfigError` where the tokenizer's template would not put the prompt together as asked."""
    templated = _has_template(tokenizer) and prompt.template == "auto"
    if prompt.template_args and not templated:
        raise ConfigError(
            "the model has no chat template that could take arguments",
            where="prompt.template_args",
            fix="remove template_args, or use a model whose tokenizer has a template",
        )
    if not templated:
        return
    try:
        shown = str(tokenizer.decode(encode_prompt(tokenizer, "What is 1 + 1?", prompt)))
        bare = prompt.model_copy(update={"template_args": {}})
        plain = str(tokenizer.decode(encode_prompt(tokenizer, "What is 1 + 1?", bare)))
    except Exception as error:  # whatever a template of jinja raises
        raise ConfigError(
            "the model's chat template refuses this prompt",
            where="prompt",
            why=_first_line(error),
            fix="some templates know no system message: move it into prompt.suffix, or set template: none",
        ) from error
    if prompt.system is not None and _squeeze(prompt.system) not in _squeeze(shown):
        raise ConfigError(
            "the model's chat template drops the system message",
            where="prompt.system",
            why=f"a prompt is {shown!r:.300}",
            fix="move the text into prompt.suffix, or set template: none",
        )
    unused = prompt.template_args and shown == plain
    if unused and not set(prompt.template_args) & _template_names(tokenizer):
        raise ConfigError(
            f"the model's chat template knows no {', '.join(sorted(prompt.template_args))}",
            where="prompt.template_args",
            why="with and without the arguments the prompt is the same",
            fix="correct the name, or remove it",
        )


def stop_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()
) -> tuple[int, ...]:
    """Give the ids that end a response, sorted: the model's, the tokenizer's, special tokens in `stop`."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = set(configured if isinstance(configured, list | tuple) else [configured])
    ids |= {tokenizer.eos_token_id} | set(_special(tokenizer, stop).values())
    return tuple(sorted(token for token in ids if token is not None))


def stop_texts(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> tuple[str, ...]:
    """Give the stop strings that are ordinary text: those that are no special token of their own."""
    special = _special(tokenizer, stop)
    return tuple(text for text in stop if text not in special)


def _special(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> dict[str, int]:
    known = dict(getattr(tokenizer, "added_tokens_encoder", {})) if stop else {}
    return {text: int(known[text]) for text in stop if text in known}


def _has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def _template_names(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    return set(re.findall(r"\w+", str(tokenizer.chat_template)))


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give an id to pad with; padding is masked, so that any valid id does."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _commit(name: str, revision: str | None) -> str:
    return _snapshot(name, revision).name


def _snapshot(name: str, revision: str | None) -> Path:
    """Give the folder in the hub's cache that holds the files of one commit."""
    return Path(cast(str, cached_file(name, "config.json", revision=revision))).parent


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Silence transformers' bars: a grid loads a model per cell."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
