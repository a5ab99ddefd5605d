"""Read the records, a step at a time or as one frame. Every file that cannot be read is named."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from alpkit.errors import TrackingError
from alpkit.runs.faults import Fault, reason_of
from alpkit.runs.folder import RunFolder
from alpkit.runs.records.place import record_file, recorded_steps
from alpkit.runs.records.schema import SCHEMAS, TOKEN_SCHEMA, Kind, check_columns

if TYPE_CHECKING:
    import pandas as pd

_NONE: Final = "no step of this run was recorded"


class Readable(NamedTuple):
    """The rows that can be read, and a fault for every file that cannot."""

    frame: "pd.DataFrame"
    faults: list[Fault]


def read(
    run: Path, *, columns: Sequence[str] | None = None, steps: Iterable[int] | None = None
) -> "pd.DataFrame":
    """Read the token records of `run` as one frame, steps ascending; all, or the given columns and steps.

    Raises `TrackingError` at the first unreadable file or missing step.
    """
    return _strict(run, "tokens", columns, steps)


def read_sequences(
    run: Path, *, columns: Sequence[str] | None = None, steps: Iterable[int] | None = None
) -> "pd.DataFrame":
    """Read the response records of `run` as one frame; arguments as of `read`."""
    return _strict(run, "sequences", columns, steps)


def read_likeliest(
    run: Path, *, columns: Sequence[str] | None = None, steps: Iterable[int] | None = None
) -> "pd.DataFrame":
    """Read the sampler's likeliest tokens of every position (`records.top_logprobs`); arguments as of `read`."""
    return _strict(run, "likeliest", columns, steps)


def scan(
    run: Path,
    *,
    kind: Kind = "tokens",
    columns: Sequence[str] | None = None,
    steps: Iterable[int] | None = None,
) -> Readable:
    """Read the records of `run` that can be read, and name the files that cannot."""
    names = _names(run, kind, columns)
    tables, faults = [], []
    for part in _parts(run, kind, names, steps):
        if isinstance(part, Fault):
            faults.append(part)
        else:
            tables.append(part)
    return Readable(_frame(tables, kind, names), faults)


def scan_step(
    run: Path, step: int, columns: Sequence[str], kind: Kind = "tokens"
) -> pa.Table | Fault:
    """Read columns of one step."""
    path = record_file(RunFolder(run).records, kind, step)
    names = list(columns)
    wanted = pa.schema([SCHEMAS[kind].field(name) for name in names])
    try:
        # One small file at a time: threads would cost more than they save.
        table = pq.ParquetFile(path).read(columns=names, use_threads=False)
        return table.select(names).cast(wanted)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        return Fault(path, reason_of(error, path) if path.is_file() else _absent(run))


def count_rows(run: Path, step: int) -> int | Fault:
    """Count the tokens of one recorded step; reads the file's footer alone."""
    path = record_file(RunFolder(run).records, "tokens", step)
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        return Fault(path, reason_of(error, path))


def dataset(run: Path, steps: Iterable[int] | None = None) -> pads.Dataset:
    """Open `run`'s token records lazily, all or of `steps`: pyarrow pushes filters and projections down.

    Raises `TrackingError` for a step that was not recorded.
    """
    folder = RunFolder(run).records
    files = [record_file(folder, "tokens", step) for step in _wanted(run, steps)]
    for path in files:
        if not path.is_file():
            raise _error(Fault(path, _absent(run)))
    return pads.dataset([str(path) for path in files], schema=TOKEN_SCHEMA, format="parquet")


def _strict(
    run: Path, kind: Kind, columns: Sequence[str] | None, steps: Iterable[int] | None
) -> "pd.DataFrame":
    names = _names(run, kind, columns)
    tables = []
    for part in _parts(run, kind, names, steps):
        if isinstance(part, Fault):
            raise _error(part)
        tables.append(part)
    return _frame(tables, kind, names)


def _parts(
    run: Path, kind: Kind, names: Sequence[str], steps: Iterable[int] | None
) -> Iterator[pa.Table | Fault]:
    wanted = _wanted(run, steps)
    if not wanted:
        yield Fault(RunFolder(run).records, _NONE)
    for step in wanted:
        yield scan_step(run, step, names, kind)


def _frame(tables: list[pa.Table], kind: Kind, names: Sequence[str]) -> "pd.DataFrame":
    empty = pa.schema([SCHEMAS[kind].field(name) for name in names]).empty_table()
    frame: pd.DataFrame = pa.concat_tables(tables or [empty]).to_pandas()
    return frame


def _names(run: Path, kind: Kind, columns: Sequence[str] | None) -> list[str]:
    names = list(SCHEMAS[kind].names if columns is None else columns)
    check_columns(names, SCHEMAS[kind], str(RunFolder(run).records))
    return names


def _wanted(run: Path, steps: Iterable[int] | None) -> list[int]:
    return recorded_steps(run) if steps is None else sorted(set(steps))


def _absent(run: Path) -> str:
    steps = ", ".join(map(str, recorded_steps(run))) or "none"
    return f"recorded steps: {steps}"


def _error(fault: Fault) -> TrackingError:
    if fault.reason == _NONE:
        return fault.error("no records", "set records.every and run at least a step")
    if not fault.path.is_file():
        return fault.error("this step was not recorded", "use one that was, or all")
    return fault.error("a record file cannot be read", "delete it and resume the run")
