"""Read a dump with named columns: JSONL or Parquet, a row per response with lists, or a row per token.

    read(Path("dump.parquet"), {"logp_rollout": "sampler_lp", "response_ids": "ids"})

A column goes by our name unless the mapping gives it another. A row per token has plain numbers, and needs
`sample` to say which tokens are one response.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alpkit.errors import did_you_mean
from alpkit.integrations.foreign_run import LOGPS, ForeignResponse
from alpkit.integrations.importing.dump import (
    Cell,
    Line,
    integers,
    json_lines,
    mask,
    number,
    numbers,
    refuse,
    response,
    whole,
)
from alpkit.runs.faults import reason_of

_FLOATS: Final = (*LOGPS, "entropy", "weight", "advantage")
_TOKEN: Final = (*_FLOATS, "keep", "response_mask")
NAMES: Final = (
    *("step", "update", "sample", "prompt", "prompt_ids", "response_ids", "response_mask"),
    *_FLOATS,
    *("keep", "reward", "policy_version"),
)
"""Columns of ours that a dump may have."""
_ENDINGS: Final = (".jsonl", ".parquet")


class ColumnsDump:
    """The responses of some files, by step."""

    def __init__(self, trainer: str, place: str, lines: Iterable[Line]) -> None:
        self.trainer, self.place = trainer, place
        self.knows_updates = True
        self._steps: dict[int, list[ForeignResponse]] = {}
        for line in _by_response(lines):
            if "step" not in line.values:
                raise _lacks(line, "step")
            self.knows_updates &= "update" in line.values
            step = whole(line.values["step"], "step", line.place)
            self._steps.setdefault(step, []).append(_response(line))

    def steps(self) -> Iterator[tuple[int, list[ForeignResponse]]]:
        """Give the steps in ascending order, their responses by update."""
        for step in sorted(self._steps):
            yield step, sorted(self._steps[step], key=lambda r: r.update)


def read(source: Path, mapping: Mapping[str, str]) -> ColumnsDump:
    """Read a file, or all JSONL and Parquet files of a folder in the order of their names."""
    files = [source]
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.suffix in _ENDINGS)
    if not files or files[0].suffix not in _ENDINGS:
        raise refuse(
            str(source),
            "nothing here can be imported",
            f"a dump is a file, or a folder of files, that ends in {' or '.join(_ENDINGS)}",
            "name it, or convert yours",
        )
    return read_files(files, mapping, source=source, trainer="columns")


def read_files(
    files: Sequence[Path], mapping: Mapping[str, str], *, source: Path, trainer: str
) -> ColumnsDump:
    """Read `files` as one dump; `TrackingError` with its place for the first fault."""
    for ours in mapping:
        if ours not in NAMES:
            raise refuse(
                "--map",
                f"{ours!r} is no column of an import",
                "",
                did_you_mean(ours, NAMES, "columns"),
            )
    lines = (_renamed(line, mapping) for path in files for line in _lines(path))
    return ColumnsDump(trainer, str(source), lines)


def _lines(path: Path) -> Iterator[Line]:
    return _parquet(path) if path.suffix == ".parquet" else json_lines(path)


def _parquet(path: Path) -> Iterator[Line]:
    try:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            for row, values in enumerate(file.read_row_group(group).to_pylist(), start=1):
                yield Line(f"{path}, row group {group}, row {row}", values)
    except (pa.ArrowException, OSError) as error:
        raise refuse(
            str(path),
            "not readable as Parquet",
            reason_of(error, path),
            "copy the file again: a Parquet file that was cut short cannot be read at all",
        ) from error


def _renamed(line: Line, mapping: Mapping[str, str]) -> Line:
    """The line under our names, without what it does not say (null)."""
    for ours, theirs in mapping.items():
        if theirs not in line.values:
            raise refuse(
                line.place,
                f"has no {theirs!r}, which is to be {ours}",
                "",
                did_you_mean(theirs, map(str, line.values), "columns"),
            )
    named = {ours: line.values.get(mapping.get(ours, ours)) for ours in NAMES}
    return Line(line.place, {name: value for name, value in named.items() if value is not None})


def _by_response(lines: Iterable[Line]) -> Iterator[Line]:
    """Give a line per response: rows of single tokens are gathered by step and sample."""
    gathered: dict[tuple[int, int], Line] = {}
    for line in lines:
        if not isinstance(line.values.get("response_ids"), int | float):
            yield line
            continue
        for name in ("step", "sample"):
            if name not in line.values:
                raise _lacks(line, name)
        key = (
            whole(line.values["step"], "step", line.place),
            whole(line.values["sample"], "sample", line.place),
        )
        first = gathered.setdefault(key, Line(line.place, {**line.values, "response_ids": []}))
        if line.values.keys() != first.values.keys():
            odd = sorted(line.values.keys() ^ first.values.keys())
            raise refuse(
                line.place,
                f"{odd[0]} is there for some tokens of the response only",
                f"its first token is at {first.place}",
                "write NaN where a number is not known",
            )
        for name in ("response_ids", *_TOKEN):
            if name in line.values:
                column = first.values[name]
                if not isinstance(column, list):
                    column = first.values[name] = []
                column.append(line.values[name])
    yield from gathered.values()


def _response(line: Line) -> ForeignResponse:
    place, values = line
    if "response_ids" not in values:
        return _without_tokens(line)
    ids = integers(values["response_ids"], "response_ids", place)
    sampled = np.ones(len(ids), dtype=bool)
    if "response_mask" in values:
        sampled = mask(values["response_mask"], "response_mask", place)
    per_token: dict[str, np.ndarray] = {
        name: numbers(values[name], name, place)
        if name in LOGPS
        else _spread(values[name], name, len(ids), place)
        for name in _FLOATS
        if name in values
    }
    if "keep" in values:
        per_token["keep"] = mask(values["keep"], "keep", place)
    return response(
        place,
        ids=ids,
        sampled=sampled,
        per_token=per_token,
        update=whole(values.get("update", 0), "update", place),
        prompt=_name(values.get("prompt")),
        prompt_ids=integers(values["prompt_ids"], "prompt_ids", place)
        if "prompt_ids" in values
        else None,
        reward=_reward(values.get("reward"), place),
        policy_version=whole(values["policy_version"], "policy_version", place)
        if "policy_version" in values
        else None,
    )


def _without_tokens(line: Line) -> ForeignResponse:
    """Make a response of a row that has no ids: its reward is all that can be kept."""
    place, values = line
    homeless = [name for name in _TOKEN if name in values]
    if homeless:
        raise refuse(
            place,
            f"{homeless[0]} without response_ids",
            "nobody could say which tokens the numbers are of",
            "name the column of token ids: --map response_ids=NAME",
        )
    if "reward" not in values:
        raise refuse(
            place,
            "neither response_ids nor reward",
            "there is nothing in it that alpkit reads",
            "name the columns: --map response_ids=NAME --map logp_rollout=NAME …",
        )
    return ForeignResponse(
        update=whole(values.get("update", 0), "update", place),
        prompt=_name(values.get("prompt")),
        prompt_ids=None,
        response_ids=(),
        response_mask=(),
        tokens={},
        reward=_reward(values["reward"], place),
    )


def _spread(value: Cell, name: str, length: int, place: str) -> np.ndarray:
    """Take a number for the whole response, or one per token."""
    if isinstance(value, int | float):
        return np.full(length, number(value, name, place))
    return numbers(value, name, place)


def _reward(value: Cell, place: str) -> float | None:
    """Take a response's reward; of one per token, as token-level rewards are, the sum."""
    if value is None:
        return None
    if isinstance(value, list):
        return float(np.nansum(numbers(value, "reward", place)))
    return number(value, "reward", place)


def _name(value: Cell) -> str | None:
    return None if value is None else str(value)


def _lacks(line: Line, name: str) -> Exception:
    return refuse(
        line.place,
        f"no column {name}",
        f"of ours it has {', '.join(line.values) or 'none'}",
        f"name it: --map {name}=NAME",
    )
