"""Write the records: in the trainer's own thread, or in one of their own."""

import logging
from collections import deque
from collections.abc import Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alpkit.errors import TrackingError
from alpkit.runs.disk import writing
from alpkit.runs.records.place import record_file
from alpkit.runs.records.schema import (
    LIKELIEST_SCHEMA,
    SEQUENCE_SCHEMA,
    TOKEN_SCHEMA,
    check_columns,
)
from alpkit.runs.swap import swapped_file

# Columns of few or repeated values are cheapest as dictionaries; log-probs as split bytes.
_REPEATED: Final = [
    "advantage",
    "reward",
    *(column.name for column in TOKEN_SCHEMA if pa.types.is_integer(column.type)),
]
_SPREAD: Final = [
    column.name
    for column in TOKEN_SCHEMA
    if pa.types.is_floating(column.type) and column.name not in _REPEATED
]
_ROW_GROUP: Final = 1 << 18
_WAITING: Final = 2
_log = logging.getLogger(__name__)


class RecordWriter:
    """Writes one pair of files per recorded step; writing a step again replaces it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self,
        step: int,
        tokens: Mapping[str, np.ndarray],
        sequences: Mapping[str, Sized],
        likeliest: Mapping[str, Sized] | None = None,
    ) -> Path:
        """Write a step's tokens and sequences; `step` itself is filled in. Returns the tokens file.

        `likeliest`: the sampler's likeliest tokens of every position, where they are kept.

        Optional columns may be missing. The tokens file is renamed into place last, so a step that
        `recorded_steps` lists is complete.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        target = record_file(self.folder, "tokens", step)
        token_table = _table(step, tokens, TOKEN_SCHEMA, str(target))
        beside = record_file(self.folder, "sequences", step)
        sequence_table = _table(step, sequences, SEQUENCE_SCHEMA, str(beside))
        _replace(sequence_table, beside, use_dictionary=["finish"])
        if likeliest is not None:
            third = record_file(self.folder, "likeliest", step)
            _replace(_table(step, likeliest, LIKELIEST_SCHEMA, str(third)), third)
        _replace(token_table, target, use_dictionary=_REPEATED, use_byte_stream_split=_SPREAD)
        return target


class BackgroundWriter:
    """A `RecordWriter` in a thread of its own, so that training does not wait for the disk.

    At most two steps wait: a slow disk slows the run down instead of filling its memory. An error in
    the thread is raised by the next `write` or `flush`.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = RecordWriter(folder)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="records")
        self._pending: deque[Future[Path]] = deque()

    def write(
        self,
        step: int,
        tokens: Mapping[str, np.ndarray],
        sequences: Mapping[str, Sized],
        likeliest: Mapping[str, Sized] | None = None,
    ) -> None:
        """Hand over a step's tokens and sequences, whose arrays must not change afterwards."""
        while len(self._pending) >= _WAITING:
            self._pending.popleft().result()
        job = self._thread.submit(self._writer.write, step, tokens, sequences, likeliest)
        self._pending.append(job)

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


def _table(step: int, columns: Mapping[str, Sized], schema: pa.Schema, where: str) -> pa.Table:
    check_columns(columns, schema, where)
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
            f"record lacks {', '.join(missing)}",
            where=where,
            fix="only log-probs, keep and policy_version may be left out",
        )
    arrays = [_array(given.get(field.name), rows, field, where) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(column: Sized | None, rows: int, field: pa.Field, where: str) -> pa.Array:
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


def _replace(table: pa.Table, target: Path, **options: object) -> None:
    with swapped_file(target) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=1,
            row_group_size=_ROW_GROUP,
            **options,
        )
