"""Continue cells that an earlier version began, in their folders, found by the `config.yaml` in them.

Another version of alpkit may give a config another id. Such a cell keeps its folder, with the old id, its
MLflow run and its checkpoint; nothing is moved, and nothing is run twice.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from alpkit.config import Grid
from alpkit.config.stored import load_run
from alpkit.errors import AlpkitError
from alpkit.runs.folder import GridFolder, RunFolder, grid_folder
from alpkit.runs.lock import is_live
from alpkit.runs.states import CellRecord, killed_if_not_live, read_cell


def adopt(grid: Grid, root: Path) -> Grid:
    """Give each cell without a folder the id of a folder in which its config and seed were begun.

    Adds notes on the cells that are continued and on folders that cannot be read. A second call changes nothing.
    """
    folder = grid_folder(root, grid.name)
    homeless = {c.cell_id for c in grid.cells if not RunFolder(folder / c.cell_id).state.is_file()}
    if not homeless or not folder.is_dir():
        return grid
    begun, notes = _begun(folder, known={cell.cell_id for cell in grid.cells})
    found = {
        c.cell_id: begun[c.cell_id] for c in grid.cells if c.cell_id in homeless & begun.keys()
    }
    if found:
        states = Counter(
            r.state for r in killed_if_not_live([*found.values()], live=is_live(folder))
        )
        told = ", ".join(f"{count} {state}" for state, count in states.items())
        cells_go = "1 cell goes" if len(found) == 1 else f"{len(found)} cells go"
        notes.insert(0, f"{cells_go} on in the folders of an earlier version: {told}")
    cells = (
        replace(c, cell_id=found[c.cell_id].cell_id) if c.cell_id in found else c
        for c in grid.cells
    )
    return replace(grid, cells=tuple(cells), notes=tuple(dict.fromkeys((*grid.notes, *notes))))


def _begun(folder: Path, known: set[str]) -> tuple[dict[str, CellRecord], list[str]]:
    """Find the furthest of the other folders for each id of this version, and what is wrong with any."""
    begun: dict[str, CellRecord] = {}
    notes = []
    for run in GridFolder(folder).runs():
        name = run.path.name
        if name in known:
            continue
        try:
            record = read_cell(run.path)
            if record is not None:
                # A cell goes by its folder's name.
                record = replace(record, cell_id=name)
                cell_id = load_run(run.config).cell_id()
                begun[cell_id] = max(record, begun.get(cell_id, record), key=_progress)
        except AlpkitError as error:
            notes.append(f"{name} is left alone: {str(error).splitlines()[0]}")
    return begun, notes


def _progress(record: CellRecord) -> tuple[bool, int]:
    return record.state == "finished", record.steps_done
