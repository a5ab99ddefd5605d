"""Find the grid or cell that a RUN_ID names, and list the grids that there are.

target = resolve("latest"); read_grid(target.folder).cells
"""

import contextlib
from pathlib import Path
from typing import NamedTuple

from alpkit.errors import GridError, TrackingError
from alpkit.runs.folder import RUNS, GridFolder, RunFolder, grid_folders
from alpkit.runs.states import GridRecord, read_grid


class Target(NamedTuple):
    """The target of a RUN_ID: a grid's folder, and one of its cells if the id names a cell."""

    folder: Path
    cell_id: str | None = None


def list_grids(root: Path) -> list[GridRecord]:
    """List every readable grid under `root/runs`, most recently launched first."""
    grids = []
    for folder in grid_folders(root):
        # One damaged manifest must not hide the other grids.
        with contextlib.suppress(TrackingError):
            grids.append(read_grid(folder))
    return sorted(grids, key=lambda grid: grid.launched, reverse=True)


def resolve(run_id: str, root: Path = Path(".")) -> Target:
    """Find what `run_id` names: a folder, an exact run id, `latest`, a grid's name, or a prefix."""
    for folder in (Path(run_id), root / run_id):
        if GridFolder(folder).manifest.is_file():
            return Target(folder)
        if RunFolder(folder).state.is_file():
            return Target(folder.parent, folder.name)
    grids = list_grids(root)
    targets = _targets(run_id, grids)
    if len(targets) == 1:
        return targets[0]
    if targets:
        raise GridError(
            f"{run_id!r} names {len(targets)} runs",
            where=str(root / RUNS),
            why="; ".join(_describe(target) for target in targets[:8]),
            fix="write more of the id, or the folder",
        )
    raise GridError(
        f"no run {run_id!r}",
        where=str(root / RUNS),
        why=f"grids here: {', '.join(grid.name for grid in grids)}"
        if grids
        else "no grid has run here",
        fix="use one of them, `latest`, a run id or a folder"
        if grids
        else "start one: alpkit run FILE",
    )


def _targets(run_id: str, grids: list[GridRecord]) -> list[Target]:
    """List everything that `run_id` may mean: exact ids first, then `latest`, then names, then prefixes."""
    names = [(grid.name, Target(grid.folder)) for grid in grids]
    ids = [pair for grid in grids for pair in _ids(grid)]
    targets = [target for text, target in ids if text == run_id]
    if not targets and run_id == "latest" and grids:
        targets = [Target(grids[0].folder)]
    if not targets:
        targets = [target for text, target in names if text == run_id]
    if not targets and run_id:
        targets = [target for text, target in [*ids, *names] if text.startswith(run_id)]
    return list(dict.fromkeys(targets))


def _ids(grid: GridRecord) -> list[tuple[str, Target]]:
    """List the ids that may be typed for this grid and its cells, retired ones included."""
    pairs = [(grid.parent_run_id, Target(grid.folder))]
    for cell in (*grid.cells, *grid.retired):
        target = Target(grid.folder, cell.cell_id)
        pairs += [(cell.run_id, target), (cell.cell_id, target)]
    return [(text, target) for text, target in pairs if text]


def _describe(target: Target) -> str:
    return str(target.folder / target.cell_id if target.cell_id else target.folder)
