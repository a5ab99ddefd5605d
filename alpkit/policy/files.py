"""Whether a model's folder is whole, without reading its weights: tokenizer there, weights not cut short.

Looks at headers and sizes, so that a folder that was half copied is refused before anything is created.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from alpkit.errors import PrerequisiteError
from alpkit.policy.loading import asks_for_its_own_code, load_tokenizer, own_code

_INDEXES: Final = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE: Final = ("model.safetensors", "pytorch_model.bin")
_HEADER: Final = 100_000_000
"""Bytes above which the format calls a header broken."""


def check_files(name: str, folder: Path) -> None:
    """Raise `PrerequisiteError` for a folder without a tokenizer, or without whole weights."""
    files = _weights(name, folder)
    for path in files:
        if not path.is_file():
            raise _incomplete(name, f"{path.name} is missing", "weights")
        if (reason := _cut_short(path)) is not None:
            raise _incomplete(name, f"{path.name} {reason}", "weights")
    try:
        tokenizer = load_tokenizer(str(folder))
    except Exception as error:  # tokenizers raises bare Exceptions
        if asks_for_its_own_code(error):
            raise own_code(name) from error
        lines = str(error).strip().splitlines()
        why = lines[0][:200] if lines else type(error).__name__
        raise _incomplete(name, why, "tokenizer") from error
    # Without its files transformers makes an empty one of the class that the config names.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise _incomplete(name, "its tokenizer knows no word: a file is missing", "tokenizer")


def _weights(name: str, folder: Path) -> list[Path]:
    for index in _INDEXES:
        if (folder / index).is_file():
            return sorted(set(_shards(name, folder / index)))
    for single in _SINGLE:
        if (folder / single).is_file():
            return [folder / single]
    raise _incomplete(name, f"it holds neither {' nor '.join(_SINGLE)}", "weights")


def _shards(name: str, index: Path) -> Iterator[Path]:
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        yield from (index.parent / str(shard) for shard in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _incomplete(name, f"{index.name} cannot be read", "weights") from error


def _cut_short(path: Path) -> str | None:
    if path.suffix == ".bin":
        return None if zipfile.is_zipfile(path) else "is cut short or no archive of torch"
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_HEADER, size - 8):
            return "is cut short: its header is not whole"
        try:
            header = json.loads(file.read(length))
            ends = [part["data_offsets"][1] for key, part in header.items() if key[:2] != "__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "has a header that is not JSON of the format"
    whole = 8 + length + max(ends, default=0)
    return None if size == whole else f"holds {size} of {whole} bytes"


def _incomplete(name: str, why: str, what: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"model folder {name} has no {what} that can be used",
        where="model",
        why=why,
        fix="copy the folder again, as save_pretrained writes it: config.json, weights, tokenizer",
    )
