"""Token records of a whole grid: read when asked, and only the columns asked for."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from alpkit.records import read_tokens, recorded_steps

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
        return recorded_steps(self._cells[cell_id].folder)

    def tokens(
        self,
        arm: str | None = None,
        steps: Collection[int] | None = None,
        columns: Collection[str] | None = None,
        *,
        cells: Collection[str] | None = None,
    ) -> pd.DataFrame:
        """Response tokens as rows: `cell_id`, `arm`, `seed`, then `columns` (default: all).

        Steps that a cell did not record and files that cannot be read are left out; `unreadable`
        names the latter.
        """
        parts = list(self._read(arm, steps, columns, cells))
        if not parts:
            return pd.DataFrame(columns=[*IDENTITY, *(columns or [])])
        return pd.concat(parts, ignore_index=True)

    def unreadable(self) -> dict[str, str]:
        """Files that are no Parquet, with the reason; reads footers, not rows."""
        faults = {}
        for cell in self._cells.values():
            for step in recorded_steps(cell.folder):
                path = cell.folder / "records" / f"tokens-{step:06d}.parquet"
                try:
                    pq.read_metadata(path)
                except (OSError, pa.ArrowInvalid) as error:
                    # The message names the path, which means nothing on the reader's machine.
                    reason = str(error).splitlines()[0].replace(str(path), path.name)
                    faults[f"{cell.cell_id}/records/{path.name}"] = reason
        return faults

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
            part = read_tokens(cell.folder, columns=names, steps=have, strict=False).frame
            owner = {"cell_id": cell.cell_id, "arm": cell.arm, "seed": cell.seed}
            yield pd.concat([pd.DataFrame(owner, index=part.index), part], axis=1)
