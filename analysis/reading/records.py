"""Read token records of a whole grid, when asked, and only the columns asked for.

`tokens` is a frame for people; `batches` is the stream that the analysis reduces, one recorded step of
an arm at a time, so that memory does not grow with the number of tokens.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from alpkit.runs.faults import Fault
from alpkit.runs.folder import RunFolder
from alpkit.runs.records import count_rows, recorded_steps, scan, scan_step

IDENTITY: Final = ["cell_id", "arm", "seed"]


class RecordedCell(NamedTuple):
    """A cell and the folder of its records."""

    cell_id: str
    arm: str
    seed: int
    folder: Path


class Batch(NamedTuple):
    """One recorded step of an arm, all its cells: `columns` of equal length, NaN for null."""

    step: int
    seed: np.ndarray
    columns: dict[str, np.ndarray]


class Records:
    """The token records of a grid's cells; nothing is read before it is asked for.

    frame.records.tokens(arm="grpo", steps=[60], columns=["logp_train", "logp_rollout"])
    """

    def __init__(self, cells: Collection[RecordedCell]) -> None:
        self._cells = {cell.cell_id: cell for cell in cells}
        self.unread: dict[Path, Fault] = {}
        """Files that `batches` met whose rows could not be read."""

    def __repr__(self) -> str:
        return f"Records({len(self._cells)} cells; .tokens(arm=, steps=, columns=))"

    def of(self, arm: str) -> list[str]:
        """List the arm's cells, by id."""
        return [cell.cell_id for cell in self._cells.values() if cell.arm == arm]

    def place(self, cell_id: str) -> str:
        """Give the place of one cell's records, as seen from the grid's folder."""
        folder = self._cells[cell_id].folder
        return str(RunFolder(folder).records.relative_to(folder.parent))

    def steps(self, cell_id: str) -> list[int]:
        """List the recorded steps of one cell; empty where nothing was recorded."""
        return recorded_steps(self._cells[cell_id].folder)

    def tokens(
        self,
        arm: str | None = None,
        steps: Collection[int] | None = None,
        columns: Collection[str] | None = None,
        *,
        cells: Collection[str] | None = None,
    ) -> pd.DataFrame:
        """Read response tokens as rows: `cell_id`, `arm`, `seed`, then `columns` (default: all).

        Steps that a cell did not record and files that cannot be read are left out; `unreadable`
        names the latter.
        """
        parts = list(self._read(arm, steps, columns, cells))
        if not parts:
            return pd.DataFrame(columns=[*IDENTITY, *(columns or [])])
        return pd.concat(parts, ignore_index=True)

    def batches(
        self, arm: str, columns: Collection[str], *, cells: Collection[str]
    ) -> Iterator[Batch]:
        """Yield the arm's recorded steps in ascending order, each with the rows of every one of `cells`.

        Files that cannot be read are left out, as in `tokens`, and named in `unread`.
        """
        own = [c for c in self._cells.values() if c.arm == arm and c.cell_id in cells]
        steps = {cell.cell_id: set(recorded_steps(cell.folder)) for cell in own}
        names = list(columns)
        for step in sorted(set().union(*steps.values())):
            have = [cell for cell in own if step in steps[cell.cell_id]]
            read = [(cell.seed, self._rows_of(cell, step, names)) for cell in have]
            parts = [(seed, table) for seed, table in read if table is not None and table.num_rows]
            if parts:
                seed = np.concatenate([np.full(table.num_rows, s) for s, table in parts])
                whole = pa.concat_tables([table for _, table in parts])
                yield Batch(step, seed, {name: _numpy(whole[name]) for name in names})

    def _rows_of(self, cell: RecordedCell, step: int, names: list[str]) -> pa.Table | None:
        rows = scan_step(cell.folder, step, names)
        if isinstance(rows, Fault):
            self.unread[rows.path] = rows
            return None
        return rows

    def rows(self, arm: str, *, cells: Collection[str]) -> int:
        """Count the rows that `batches` can yield at most; reads footers only."""
        counts = (
            count_rows(cell.folder, step)
            for cell in self._cells.values()
            if cell.arm == arm and cell.cell_id in cells
            for step in recorded_steps(cell.folder)
        )
        return sum(count for count in counts if isinstance(count, int))

    def unreadable(self) -> list[Fault]:
        """List the files that are no Parquet; reads footers, not rows."""
        counts = (
            count_rows(cell.folder, step)
            for cell in self._cells.values()
            for step in recorded_steps(cell.folder)
        )
        return [fault for fault in counts if isinstance(fault, Fault)]

    def _read(
        self,
        arm: str | None,
        steps: Collection[int] | None,
        columns: Collection[str] | None,
        cells: Collection[str] | None,
    ) -> Iterator[pd.DataFrame]:
        for cell in self._cells.values():
            if arm not in (None, cell.arm) or (cells is not None and cell.cell_id not in cells):
                continue
            have = [s for s in recorded_steps(cell.folder) if steps is None or s in steps]
            if not have:
                continue
            names = None if columns is None else list(columns)
            part = scan(cell.folder, columns=names, steps=have).frame
            owner = {"cell_id": cell.cell_id, "arm": cell.arm, "seed": cell.seed}
            yield pd.concat([pd.DataFrame(owner, index=part.index), part], axis=1)


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.to_numpy())
