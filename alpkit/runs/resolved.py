"""One resolved configuration by name: of a cell that ran, of an arm of a grid, or of an arm of a file.

one("quickstart:seq-alp").config; one("experiments/quickstart.yaml:grpo").cell_id
"""

from pathlib import Path
from typing import NamedTuple

from alpkit.config import RunConfig, expand, load_ablation
from alpkit.config.files.yaml import load_yaml
from alpkit.config.stored import load_run
from alpkit.errors import GridError, did_you_mean
from alpkit.runs.find import Target, resolve
from alpkit.runs.folder import RunFolder
from alpkit.runs.states import read_grid

_YAML = (".yaml", ".yml")


class Resolved(NamedTuple):
    """A configuration with everything filled in, and what it was asked for by."""

    label: str
    config: RunConfig
    of_an_arm: bool
    """Whether an arm was named, so that its seed is any of its cells'."""

    @property
    def cell_id(self) -> str:
        return self.config.cell_id()


def one(name: str, root: Path = Path(".")) -> Resolved:
    """Find the configuration that `name` means.

    A cell's id, MLflow run id or folder; `GRID:ARM`; a cell's `config.yaml`; an ablation file, `FILE:ARM`.
    Raises `GridError` for what names several arms, or none.
    """
    place, _, arm = name.partition(":") if not Path(name).exists() else (name, "", "")
    if place.endswith(_YAML) and Path(place).is_file():
        return _of_file(Path(place), arm, name)
    target = resolve(place, root)
    if target.cell_id is not None:
        return Resolved(name, load_run(RunFolder(target.folder / target.cell_id).config), False)
    return _of_grid(target, arm, name)


def _of_file(path: Path, arm: str, name: str) -> Resolved:
    if "arms" not in load_yaml(path).data and not arm:
        return Resolved(name, load_run(path), False)
    cells = expand(load_ablation(path)).cells
    chosen = _choose(list(dict.fromkeys(cell.arm for cell in cells)), arm, name, str(path))
    return Resolved(name, next(cell.config for cell in cells if cell.arm == chosen), True)


def _of_grid(target: Target, arm: str, name: str) -> Resolved:
    grid = read_grid(target.folder)
    chosen = _choose(list(dict.fromkeys(cell.arm for cell in grid.cells)), arm, name, grid.name)
    for cell in grid.cells:
        path = RunFolder(target.folder / cell.cell_id).config
        if cell.arm == chosen and path.is_file():
            return Resolved(name, load_run(path), True)
    raise GridError(
        f"no cell of {chosen!r} has a configuration on disk",
        where=str(target.folder),
        why="none of them has started",
        fix="name the grid's file instead: alpkit diff FILE:ARM …",
    )


def _choose(arms: list[str], arm: str, name: str, where: str) -> str:
    if arm in arms:
        return arm
    if not arm and len(arms) == 1:
        return arms[0]
    near = did_you_mean(arm, arms) if arm else ""
    raise GridError(
        f"{where} has no arm {arm!r}" if arm else f"{name!r} names {len(arms)} arms",
        where=where,
        why=f"its arms are: {', '.join(arms)}",
        fix=near or f"name one: {name.partition(':')[0]}:{arms[0]}",
    )
