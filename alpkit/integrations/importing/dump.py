"""A dump as its readers give it: steps of responses; and one error, with its place, for what cannot be read."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np

from alpkit.errors import TrackingError
from alpkit.integrations.foreign_run import LOGPS, ForeignResponse
from alpkit.runs.faults import reason_of

Cell = object
"""A value as JSON or Parquet gives it."""
_ABOVE_ZERO: Final = 1e-2
"""What rounding may make of the log-prob of a certain token."""


_LARGEST: Final = 2**31 - 1
"""The records' columns have 32 bits."""


class Dump(Protocol):
    """One run's dump; `steps` may be asked for again and ascends; steps have no response twice."""

    @property
    def trainer(self) -> str: ...

    @property
    def place(self) -> str: ...

    @property
    def knows_updates(self) -> bool: ...

    def steps(self) -> Iterator[tuple[int, list[ForeignResponse]]]: ...


class Line(NamedTuple):
    """One object of a dump, and where it stands."""

    place: str
    values: dict[str, Cell]


def refuse(where: str, what: str, why: str, fix: str) -> TrackingError:
    """Make the error of an import."""
    return TrackingError(what, where=where, why=why, fix=fix)


def json_lines(path: Path) -> Iterator[Line]:
    """Read a file of one JSON object per line; `TrackingError` with file and line for anything else."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield Line(f"{path}:{number}", _object(text, f"{path}:{number}"))
    except (OSError, UnicodeDecodeError) as error:
        reason = reason_of(error, path)
        raise refuse(str(path), "the dump cannot be read", reason, "look at the file") from error


def _object(text: str, place: str) -> dict[str, Cell]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        cut = "" if text.endswith("\n") else ", and the file ends there"
        raise refuse(
            place,
            "not a whole line of JSON",
            f"{error}{cut}",
            "copy the file again, or delete the line where a killed run left it half-written",
        ) from error
    if not isinstance(value, dict):
        raise refuse(place, "not a JSON object", f"it is {type(value).__name__}", _OTHER)
    return value


_OTHER: Final = "name the dump itself; --from says whose format it has"


def whole(value: Cell, name: str, place: str) -> int:
    """Take an integer; a float that is one will do."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(value, name, "an integer", place)
    if isinstance(value, float) and not value.is_integer():
        raise wrong(value, name, "an integer", place)
    if abs(value) > _LARGEST:
        raise wrong(value, name, f"an integer of at most {_LARGEST}", place)
    return int(value)


def number(value: Cell, name: str, place: str) -> float:
    """Take a number; None and booleans are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(value, name, "a number", place)
    return float(value)


def listed(value: Cell, name: str, place: str) -> Sequence[Cell]:
    """Take a list."""
    if isinstance(value, np.ndarray):
        return list(value)
    if not isinstance(value, list | tuple):
        raise wrong(value, name, "a list", place)
    return value


def integers(value: Cell, name: str, place: str) -> tuple[int, ...]:
    """Take a list of integers."""
    return tuple(whole(entry, name, place) for entry in listed(value, name, place))


def mask(value: Cell, name: str, place: str) -> np.ndarray:
    """Take a list of 0 and 1, or of booleans."""
    entries = listed(value, name, place)
    for entry in entries:
        if entry not in (0, 1):
            raise wrong(entry, name, "0 or 1", place)
    return np.array([bool(entry) for entry in entries], dtype=bool)


def numbers(value: Cell, name: str, place: str) -> np.ndarray:
    """Take a list of numbers, NaN for null; log-probs must not be above 0."""
    entries = listed(value, name, place)
    made = np.array(
        [np.nan if entry is None else number(entry, name, place) for entry in entries],
        dtype=np.float64,
    )
    if name in LOGPS and (made > _ABOVE_ZERO).any():
        raise refuse(
            place,
            f"{name} is {np.nanmax(made):.4g}, and a log-prob is at most 0",
            "these are probabilities, or another column",
            "write natural logarithms, or name the right column with --map",
        )
    return made


def wrong(value: Cell, name: str, expected: str, place: str) -> TrackingError:
    """Make the error of a value of the wrong kind."""
    return refuse(place, f"{name} is {repr(value)[:60]}, not {expected}", "", _OTHER)


def response(
    place: str,
    *,
    ids: tuple[int, ...],
    sampled: np.ndarray,
    per_token: dict[str, np.ndarray],
    update: int,
    prompt: str | None,
    prompt_ids: tuple[int, ...] | None,
    reward: float | None,
    policy_version: int | None = None,
) -> ForeignResponse:
    """Make a response of its ids; `sampled` marks the model's own, and what comes after its last is dropped.

    `per_token`: columns over all ids, or over the sampled ones alone.
    """
    if len(sampled) != len(ids):
        raise refuse(
            place, f"response_mask has {len(sampled)} values for {len(ids)} ids", "", _OTHER
        )
    end = int(np.flatnonzero(sampled)[-1]) + 1 if sampled.any() else 0
    own = int(sampled.sum())
    tokens = {"token": np.array(ids, dtype=np.int64)[sampled]}
    for name, values in per_token.items():
        if len(values) not in (len(ids), own):
            raise refuse(
                place,
                f"{name} has {len(values)} values",
                f"response_ids has {len(ids)}, of which the model sampled {own}",
                "write one value per id, or one per sampled id",
            )
        tokens[name] = values[sampled] if len(values) == len(ids) else values
    # A turn is a run of tokens that the model sampled.
    starts = sampled & ~np.concatenate([[False], sampled[:-1]])
    tokens["turn"] = (np.cumsum(starts) - 1)[sampled]
    return ForeignResponse(
        update=update,
        prompt=prompt,
        prompt_ids=prompt_ids,
        response_ids=ids[:end],
        response_mask=tuple(sampled[:end].astype(int).tolist()),
        tokens=tokens,
        reward=reward,
        policy_version=policy_version,
    )
