"""What a grid's folder holds beyond what its cells need: found first, removed only by who asks for it.

found = leftovers(folder); remove(folder, found)
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from alpkit.runs.disk import writing
from alpkit.runs.folder import RunFolder, step_folders
from alpkit.runs.lock import lock
from alpkit.runs.states import CellRecord, read_grid, write_grid

Kind = Literal["retired cell", "old checkpoint", "set aside"]


class Leftover(NamedTuple):
    """A file or folder that no cell of the grid needs."""

    kind: Kind
    cell_id: str
    """Empty where it belongs to the whole grid."""
    path: Path
    bytes: int


def leftovers(folder: Path) -> list[Leftover]:
    """List cells that the file no longer has, checkpoints but the newest of finished cells, and what was set aside.

    A finished cell keeps its newest checkpoint, by which it can be evaluated and exported; one that has not
    finished keeps all of them.
    """
    return sorted(_found(folder), key=lambda each: str(each.path))


def remove(folder: Path, found: Iterable[Leftover]) -> None:
    """Remove leftovers, and the removed cells from the grid's manifest; `GridError` while the grid runs."""
    with lock(folder):
        for each in found:
            with writing(each.path):
                if each.path.is_dir() and not each.path.is_symlink():
                    shutil.rmtree(each.path)
                else:
                    each.path.unlink(missing_ok=True)
        grid = read_grid(folder)
        kept = [record for record in grid.retired if (folder / record.cell_id).is_dir()]
        if len(kept) < len(grid.retired):
            write_grid(folder, grid.manifest, grid.cells, kept)


def _found(folder: Path) -> Iterator[Leftover]:
    grid = read_grid(folder)
    for record in grid.retired:
        place = folder / record.cell_id
        if place.is_dir():
            yield Leftover("retired cell", record.cell_id, place, size(place))
    for path in folder.glob(".*.set-aside*"):
        yield Leftover("set aside", "", path, size(path))
    for record in grid.cells:
        yield from _of_cell(record, RunFolder(folder / record.cell_id))


def _of_cell(record: CellRecord, run: RunFolder) -> Iterator[Leftover]:
    for place in (run.path, run.checkpoints):
        for path in place.glob(".*.set-aside*"):
            yield Leftover("set aside", record.cell_id, path, size(path))
    if record.state == "finished":
        for path in list(step_folders(run.checkpoints).values())[:-1]:
            yield Leftover("old checkpoint", record.cell_id, path, size(path))


def size(path: Path) -> int:
    """Give the bytes of a file, or of all files in a folder."""
    if path.is_file() or path.is_symlink():
        return path.lstat().st_size
    return sum(each.lstat().st_size for each in path.rglob("*") if each.is_file())
