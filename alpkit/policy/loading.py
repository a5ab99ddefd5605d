"""The model that is trained: where it comes from, how it is prompted.

Weights are always loaded as float32 masters in eval mode; a run's `dtype: bfloat16` is autocast
over them. `Policy.source` is a folder that a second engine can load the very same weights from.

Usage: `policy = load_policy("builtin:tiny-addition")`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, cast

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

from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.policy.perturbation.sites import decoder_layers

BUILTINS: Final = ("builtin:tiny-addition", "builtin:smollm2-135m")

_ASSETS = Path(__file__).parent / "assets"


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


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, ...]:
    """Encode a prompt as the user's turn of the chat template; without a template, as it stands.

    Special tokens come from the template or not at all, so that ids are the same for every engine.
    """
    if getattr(tokenizer, "chat_template", None):
        encoded = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
    else:
        encoded = tokenizer(prompt, add_special_tokens=False)
    return tuple(encoded["input_ids"])


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Give the ids that end a response, sorted: the generation config's and the tokenizer's."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = set(configured if isinstance(configured, list | tuple) else [configured])
    return tuple(sorted(token for token in ids | {tokenizer.eos_token_id} if token is not None))


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give an id to pad with; padding is masked, so that any valid id does."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def local_folder(name: str) -> Path | None:
    """Resolve a builtin or a folder; None for what can only be a hub id."""
    if name == "builtin:tiny-addition":
        return _ASSETS / "tiny-addition"
    if name == "builtin:smollm2-135m":
        from alpkit.policy.smollm2 import materialise

        return materialise()
    if name.startswith("builtin:"):
        raise ConfigError(
            f"{name} is not a built-in model", where="model", fix=f"use {' or '.join(BUILTINS)}"
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PrerequisiteError(
            f"model folder {name} does not exist",
            where="model",
            why="relative folders are looked up from the working directory",
            fix=f"correct the path, or use a hub id or {' or '.join(BUILTINS)}",
        )
    return None


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
