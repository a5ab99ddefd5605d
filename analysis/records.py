"""Per-token records of a grid, read from Parquet only when asked and only the columns asked for."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

_FILE = re.compile(r"tokens-(\d+)\.parquet")
IDENTITY: Final = ["cell_id", "arm", "seed"]


class RecordedCell(NamedTuple):
    """Where a cell's records lie and whose they are."""

    cell_id: str
    arm: str
    seed: int
    folder: Path


class Records:
    """The token records of a grid's cells; nothing is read before it is asked for.

    frame.records.tokens(arm="grpo", steps=[60], columns=["logp_train", "logp_rollout"])
    """

    def __init__(self, cells: Collection[RecordedCell]) -> None:
        self._cells = {cell.cell_id: cell for cell in cells}

    def __repr__(self) -> str:
        return f"Records({len(self._cells)} cells; .tokens(arm=, steps=, columns=))"

    def steps(self, cell_id: str) -> list[int]:
        """Recorded steps of one cell; empty where nothing was recorded."""
        found = (
            _FILE.fullmatch(path.name)
            for path in (self._cells[cell_id].folder / "records").glob("*")
        )
        return sorted(int(match[1]) for match in found if match)

    def tokens(
        self,
        arm: str | None = None,
        steps: Collection[int] | None = None,
        columns: Collection[str] | None = None,
        *,
        cells: Collection[str] | None = None,
    ) -> pd.DataFrame:
        """Response tokens as rows, with `cell_id`, `arm` and `seed` in front of `columns` (default: all).

        A file that cannot be read is left out: `unreadable()` names it.
        """
        parts = []
        for cell in self._cells.values():
            if (arm is not None and cell.arm != arm) or (
                cells is not None and cell.cell_id not in cells
            ):
                continue
            parts += [self._label(part, cell) for part in self._read(cell, steps, columns)]
        if not parts:
            return pd.DataFrame(columns=[*IDENTITY, *(columns or [])])
        return pd.concat(parts, ignore_index=True)

    def unreadable(self) -> dict[str, str]:
        """Files that are there and are no Parquet, with the reason (footers are read, rows are not)."""
        faults = {}
        for cell in self._cells.values():
            for step in self.steps(cell.cell_id):
                path = _path(cell, step)
                try:
                    pq.read_metadata(path)
                except (OSError, pa.ArrowInvalid) as error:
                    faults[f"{cell.cell_id}/records/{path.name}"] = str(error).splitlines()[0]
        return faults

    def _read(
        self, cell: RecordedCell, steps: Collection[int] | None, columns: Collection[str] | None
    ) -> Iterator[pd.DataFrame]:
        for step in self.steps(cell.cell_id):
            if steps is not None and step not in steps:
                continue
            try:
                yield pq.read_table(
                    _path(cell, step), columns=None if columns is None else list(columns)
                ).to_pandas()
            except (OSError, pa.ArrowInvalid):
                continue

    @staticmethod
    def _label(part: pd.DataFrame, cell: RecordedCell) -> pd.DataFrame:
        names = {"cell_id": cell.cell_id, "arm": cell.arm, "seed": np.int64(cell.seed)}
        return pd.concat([pd.DataFrame(names, index=part.index), part], axis=1)


def _path(cell: RecordedCell, step: int) -> Path:
    return cell.folder / "records" / f"tokens-{step:06d}.parquet"
