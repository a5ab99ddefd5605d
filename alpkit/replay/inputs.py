"""Find a replay's inputs: one cell, its recorded steps, and the policies it kept. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from alpkit.config import RunConfig
from alpkit.config.stored import load_run
from alpkit.errors import ConfigError, GridError, TrackingError
from alpkit.runs.find import resolve
from alpkit.runs.folder import RunFolder, step_folder
from alpkit.runs.imported import ABSENCES, Imported, read_imported
from alpkit.runs.records import recorded_steps
from alpkit.runs.states import read_cell, read_grid, read_manifest


class Cell(NamedTuple):
    """A cell to replay; `report_id` is the name of the report's folder."""

    folder: Path
    cell_id: str
    arm: str
    seed: int
    config: RunConfig
    report_id: str
    imported: Imported | None = None
    """Whose dump it comes from; None for a run of alpkit's own."""


def find_cell(run_id: str, root: Path) -> Cell:
    """Find the one cell that `run_id` names, with its config."""
    for folder in (Path(run_id), root / run_id):
        if RunFolder(folder).config.is_file():
            return _cell(folder)
    target = resolve(run_id, root)
    if target.cell_id is not None:
        return _cell(target.folder / target.cell_id)
    cells = read_grid(target.folder).cells
    if len(cells) == 1:
        return _cell(target.folder / cells[0].cell_id)
    listed = "; ".join(f"{c.cell_id} {c.arm} seed {c.seed}" for c in cells)
    raise GridError(
        f"{run_id!r} is a grid of {len(cells)} cells, and a replay is of one",
        where=str(target.folder),
        why=f"cells: {listed}",
        fix=f"name a cell, for example: alpkit replay {cells[0].cell_id}" if cells else "",
    )


def _cell(folder: Path) -> Cell:
    config = load_run(RunFolder(folder).config)
    record = read_cell(folder)
    name = [folder.name]
    if RunFolder(folder).grid.manifest.is_file():
        grid = read_manifest(folder.parent)
        name = [grid.grid, grid.grid_id[:8], folder.name]
    arm = record.arm if record else folder.name
    report_id = "-".join(filter(None, name))
    imported = read_imported(folder)
    return Cell(folder, folder.name, arm, config.seed, config, report_id, imported)


def recorded_steps_of(folder: Path, steps: Sequence[int] | None) -> list[int]:
    """List the steps to replay: the given ones, which must be recorded, or all that are."""
    have = recorded_steps(folder)
    if not have:
        raise TrackingError(
            "this cell has no token records",
            where=str(RunFolder(folder).records),
            why="a replay starts from what every token's log-probs were",
            fix="run it with records.every set to a number of steps that it reaches",
        )
    missing = sorted(set(steps or ()) - set(have))
    if missing:
        raise TrackingError(
            f"step {missing[0]} was not recorded",
            where=str(RunFolder(folder).records),
            why=f"recorded steps: {', '.join(map(str, have))}",
            fix="use one of them, or leave --step out for all",
        )
    return have if steps is None else sorted(set(steps))


def given_policy(cell: Cell, steps: Sequence[int]) -> int:
    """Name the one step that a policy given by hand can belong to; refuse what cannot have gradients."""
    where = str(RunFolder(cell.folder).records)
    if len(steps) != 1:
        raise ConfigError(
            f"--policy is the weights from before one step, and {len(steps)} are replayed",
            where=where,
            why=f"recorded steps: {', '.join(map(str, steps))}",
            fix="choose one with --step",
        )
    for lacking in ("prompt_ids", "logp_train", "advantage"):
        if cell.imported is not None and lacking in cell.imported.absent:
            raise TrackingError(
                "this run has no gradients",
                where=where,
                why=f"its dump lacks {ABSENCES[lacking]}",
                fix="leave --policy out, or import a dump that has them",
            )
    return steps[0]


def kept_policies(
    folder: Path, steps: Sequence[int], wanted: bool | None, *, every: bool
) -> dict[int, Path]:
    """Find the folder of the policy from before each step, where there is one.

    `wanted`: False asks for none, True raises `TrackingError` where one is missing: of any step with
    `every`, else of all of them.
    """
    if wanted is False:
        return {}
    places = {step: step_folder(RunFolder(folder).replay, step) for step in steps}
    kept = {step: path for step, path in places.items() if path.is_dir()}
    if wanted and (not kept or (every and len(kept) < len(steps))):
        missing = min(set(steps) - set(kept))
        raise TrackingError(
            f"the policy from before step {missing} was not kept",
            where=str(places[missing]),
            why="gradients need the weights that the recorded tokens were scored with",
            fix="run the cell with records.replay: true (a step recorded only because it spiked never has "
            "them), choose another --step, or leave --gradients out",
        )
    return kept
