"""Per-token records of a run: what was sampled, and every log-probability it was given.

`<run>/records/tokens-000010.parquet` has one row per response token of step 10, in the order that
the trainer hands them over; `sequences-000010.parquet` one row per response. Log-probs are stored
raw: no clamp, no clip; NaN means "not computed" and becomes null. Weights are stored on request only,
they follow from the rest. Not here: metrics (`alpkit.tracking`).

    RecordWriter(run / "records").write(step, tokens, sequences)
    read(run, columns=["logp_rollout", "logp_train"], steps=[10])
"""

import logging
import os
import re
import shutil
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from alpkit.errors import TrackingError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

_VERSION = {b"alpkit.records": b"1"}


def _schema(columns: Mapping[str, pa.DataType], required: Iterable[str]) -> pa.Schema:
    must = set(required)
    fields = [pa.field(name, kind, nullable=name not in must) for name, kind in columns.items()]
    return pa.schema(fields, metadata=_VERSION)


_TOKEN_COLUMNS = {
    "step": pa.int32(),
    "update": pa.int16(),
    "sample": pa.int32(),
    "prompt": pa.int32(),
    "position": pa.int32(),
    "turn": pa.int16(),
    "token": pa.int32(),
    "logp_rollout": pa.float32(),
    "logp_old": pa.float32(),
    "logp_train": pa.float32(),
    "logp_perturbed": pa.float32(),
    "entropy": pa.float32(),
    "keep": pa.bool_(),
    "advantage": pa.float32(),
    "reward": pa.float32(),
    "policy_version": pa.int32(),
    "weight": pa.float32(),  # null unless records.weight: true
}
TOKEN_SCHEMA: Final = _schema(
    _TOKEN_COLUMNS, (name for name, kind in _TOKEN_COLUMNS.items() if kind != pa.float32())
)
SEQUENCE_SCHEMA: Final = _schema(
    {
        "step": pa.int32(),
        "sample": pa.int32(),
        "prompt": pa.int32(),
        "prompt_ids": pa.list_(pa.int32()),
        "response_ids": pa.list_(pa.int32()),
        "response_mask": pa.list_(pa.int8()),  # null: every response token is the model's own
        "reward": pa.float32(),
        "advantage": pa.float32(),
        "finish": pa.string(),
    },
    ("step", "sample", "prompt", "prompt_ids", "response_ids", "finish"),
)
# Columns of few or repeated values are cheapest as dictionaries; log-probs as split bytes.
_REPEATED = ["advantage", "reward"]
_REPEATED += [field.name for field in TOKEN_SCHEMA if pa.types.is_integer(field.type)]
_SPREAD = [n for n, kind in _TOKEN_COLUMNS.items() if kind == pa.float32() and n not in _REPEATED]
_ROW_GROUP = 1 << 18
_WAITING = 2
_log = logging.getLogger(__name__)
_NAME = re.compile(r"tokens-(\d{6,})\.parquet")
Kind = Literal["tokens", "sequences"]


class Partial(NamedTuple):
    """What `strict=False` returns: the readable rows, and one error per unreadable file."""

    frame: "pd.DataFrame"
    errors: list[TrackingError]


class RecordWriter:
    """Writes one pair of files per recorded step; writing a step again replaces it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self, step: int, tokens: Mapping[str, np.ndarray], sequences: Mapping[str, Any]
    ) -> Path:
        """Write a step's tokens and sequences; `step` itself is filled in. Returns the tokens file.

        Optional columns may be missing. The tokens file is renamed into place last, so a step that
        `recorded_steps` lists is complete.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"tokens-{step:06d}.parquet"
        token_table = _table(step, tokens, TOKEN_SCHEMA, str(target))
        beside = self.folder / f"sequences-{step:06d}.parquet"
        sequence_table = _table(step, sequences, SEQUENCE_SCHEMA, str(beside))
        _replace(sequence_table, beside, use_dictionary=["finish"])
        _replace(token_table, target, use_dictionary=_REPEATED, use_byte_stream_split=_SPREAD)
        return target


class BackgroundWriter:
    """A `RecordWriter` in a thread of its own, so that training does not wait for the disk.

    At most two steps wait: a slow disk slows the run down instead of filling its memory. What a write
    raises comes out of the next `write`, `flush` or `close`.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = RecordWriter(folder)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="records")
        self._pending: deque[Future[Path]] = deque()

    def write(
        self, step: int, tokens: Mapping[str, np.ndarray], sequences: Mapping[str, Any]
    ) -> None:
        """Hand over a step's tokens and sequences, whose arrays must not change afterwards."""
        while len(self._pending) >= _WAITING:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._writer.write, step, tokens, sequences))

    def flush(self) -> None:
        """Return when everything handed over is in its place."""
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        """Finish what was handed over and end the thread; what fails now is logged.

        Never raises: it runs while another error, or Ctrl-C, is on its way up. `flush` first.
        """
        for pending in self._pending:
            try:
                pending.result()
            except TrackingError as error:
                _log.error("records were lost: %s", error)
        self._pending.clear()
        self._thread.shutdown()


def _table(step: int, columns: Mapping[str, Any], schema: pa.Schema, where: str) -> pa.Table:
    _check_columns(columns, schema, where)
    given = {name: column for name, column in columns.items() if name != "step"}
    lengths = {name: len(column) for name, column in given.items()}
    if len(set(lengths.values())) > 1:
        raise TrackingError(
            "record columns differ in length", where=where, why=str(lengths), fix="one row per item"
        )
    rows = next(iter(lengths.values()), 0)
    given["step"] = np.full(rows, step, np.int32)
    missing = [field.name for field in schema if not field.nullable and field.name not in given]
    if missing:
        raise TrackingError(
            f"record lacks {', '.join(missing)}", where=where, fix="only log-probs may be left out"
        )
    arrays = [_array(given.get(field.name), rows, field, where) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(column: Any, rows: int, field: pa.Field, where: str) -> pa.Array:
    if column is None:
        return pa.nulls(rows, field.type)
    if isinstance(column, np.ndarray) and pa.types.is_floating(field.type):
        # A null costs a second pass over the column: most have none.
        column = column.astype(np.float32, copy=False)
        return pa.array(column, type=field.type, from_pandas=bool(np.isnan(column.sum())))
    try:
        return pa.array(column, type=field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise TrackingError(
            f"record column {field.name} does not fit {field.type}", where=where, why=str(error)
        ) from error


def _replace(table: pa.Table, target: Path, **options: Any) -> None:
    """Write beside `target` and rename: a reader sees the old file or the new one, never half."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=1,
            row_group_size=_ROW_GROUP,
            **options,
        )
        os.replace(temporary, target)
    except OSError as error:
        raise TrackingError(
            "records cannot be written", where=str(target), why=str(error)
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def recorded_steps(run: Path) -> list[int]:
    """Steps of `run` that have records, ascending; empty when there are none."""
    names = (_NAME.fullmatch(path.name) for path in (run / "records").glob("tokens-*.parquet"))
    return sorted(int(name[1]) for name in names if name)


def rewind(run: Path, step: int | None) -> None:
    """Remove records and replay checkpoints after `step` (None: all), and what a kill left half-written.

    A spike of the steps that a resumed run takes again need not come again.
    """
    for file in (run / "records").glob("*.parquet"):
        number = file.stem.rpartition("-")[2]
        if number.isdigit() and (step is None or int(number) > step):
            file.unlink()
    for file in (run / "records").glob(".*.tmp"):
        file.unlink()
    for folder in (run / "replay").glob("*step-*"):
        if step is None or folder.name.startswith(".") or int(folder.name[5:]) > step:
            shutil.rmtree(folder)


def dataset(run: Path, steps: Iterable[int] | None = None) -> pads.Dataset:
    """Lazy view of `run`'s token records, all or of `steps`: pyarrow pushes filters and projections down.

    Raises `TrackingError` for a step that was not recorded.
    """
    wanted = _wanted_steps(run, steps)
    for step in set(wanted) - set(recorded_steps(run)):
        raise _not_recorded(run, _path(run, "tokens", step))
    files = [str(_path(run, "tokens", step)) for step in wanted]
    return pads.dataset(files, schema=TOKEN_SCHEMA, format="parquet")


@overload
def read(
    run: Path,
    *,
    columns: Sequence[str] | None = None,
    steps: Iterable[int] | None = None,
    strict: Literal[True] = True,
) -> "pd.DataFrame": ...
@overload
def read(
    run: Path,
    *,
    columns: Sequence[str] | None = None,
    steps: Iterable[int] | None = None,
    strict: Literal[False],
) -> Partial: ...
def read(
    run: Path,
    *,
    columns: Sequence[str] | None = None,
    steps: Iterable[int] | None = None,
    strict: bool = True,
) -> "pd.DataFrame | Partial":
    """Token records of `run` as one frame, steps ascending.

    `strict=True` raises `TrackingError` at the first unreadable file or missing step;
    `strict=False` returns the rest with the errors.
    """
    return _read(run, "tokens", columns, steps, strict)


@overload
def read_sequences(
    run: Path,
    *,
    columns: Sequence[str] | None = None,
    steps: Iterable[int] | None = None,
    strict: Literal[True] = True,
) -> "pd.DataFrame": ...
@overload
def read_sequences(
    run: Path,
    *,
    columns: Sequence[str] | None = None,
    steps: Iterable[int] | None = None,
    strict: Literal[False],
) -> Partial: ...
def read_sequences(
    run: Path,
    *,
    columns: Sequence[str] | None = None,
    steps: Iterable[int] | None = None,
    strict: bool = True,
) -> "pd.DataFrame | Partial":
    """Response records of `run` as one frame; arguments as in `read`."""
    return _read(run, "sequences", columns, steps, strict)


def _read(
    run: Path,
    kind: Kind,
    columns: Sequence[str] | None,
    steps: Iterable[int] | None,
    strict: bool,
) -> "pd.DataFrame | Partial":
    schema = TOKEN_SCHEMA if kind == "tokens" else SEQUENCE_SCHEMA
    where = str(run / "records")
    names = list(schema.names if columns is None else columns)
    _check_columns(names, schema, where)
    wanted = pa.schema([schema.field(name) for name in names])
    tables, errors = [], []
    for step in _wanted_steps(run, steps):
        try:
            tables.append(_read_file(_path(run, kind, step), names, wanted, run))
        except TrackingError as error:
            if strict:
                raise
            errors.append(error)
    if not tables and not errors:
        errors.append(
            TrackingError(
                "no records", where=where, fix="set records.every and run at least a step"
            )
        )
        if strict:
            raise errors[0]
    frame = pa.concat_tables(tables).to_pandas() if tables else wanted.empty_table().to_pandas()
    return frame if strict else Partial(frame, errors)


def _wanted_steps(run: Path, steps: Iterable[int] | None) -> list[int]:
    return recorded_steps(run) if steps is None else sorted(set(steps))


def _read_file(path: Path, names: list[str], wanted: pa.Schema, run: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read(columns=names).select(names).cast(wanted)
    except FileNotFoundError as error:
        raise _not_recorded(run, path) from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise TrackingError(
            "a record file cannot be read",
            where=str(path),
            why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            fix="delete it and resume the run, or read with strict=False",
        ) from error


def _not_recorded(run: Path, path: Path) -> TrackingError:
    have = ", ".join(map(str, recorded_steps(run))) or "none"
    return TrackingError(
        "this step was not recorded", where=str(path), why=f"recorded steps: {have}"
    )


def _path(run: Path, kind: Kind, step: int) -> Path:
    return run / "records" / f"{kind}-{step:06d}.parquet"


def _check_columns(names: Iterable[str], schema: pa.Schema, where: str) -> None:
    for name in names:
        if name not in schema.names:
            raise TrackingError(
                f"{name!r} is not a record column",
                where=where,
                fix=did_you_mean(name, schema.names, "columns"),
            )
