"""Find the policy that a finished or stopped cell has come to: its configuration and newest checkpoint.

found = trained("latest", asked="one policy is exported")
"""

from pathlib import Path
from typing import Any, NamedTuple

from alpkit.config.stored import as_of_now
from alpkit.errors import GridError, TrackingError
from alpkit.runs.checkpoint import latest_checkpoint
from alpkit.runs.configs import scan_config
from alpkit.runs.find import Target, resolve
from alpkit.runs.folder import GridFolder
from alpkit.runs.states import read_grid


class Trained(NamedTuple):
    """A cell that has a checkpoint; `config` holds its fields as this version spells them."""

    cell_id: str
    config: dict[str, Any]
    checkpoint: Path


def trained(run_id: str, *, asked: str, target: Target | None = None) -> Trained:
    """Find the one cell that `run_id` names; `asked` says in an error why it must be one.

    `target`: where `run_id` was resolved already.
    """
    target = resolve(run_id) if target is None else target
    cell = target.cell_id or _only_cell(run_id, target, asked)
    run = GridFolder(target.folder).run(cell)
    newest = latest_checkpoint(run.checkpoints)
    if newest is None:
        raise TrackingError(
            f"cell {cell} has no checkpoint",
            where=str(run.path),
            why=f"{asked}, and this one was stopped before its first checkpoint, or it was removed",
            fix="run the grid again to finish it",
        )
    fix = "run the grid again: it writes the cell's configuration anew"
    stored = scan_config(run.path).strict("the cell's configuration cannot be read", fix)[0]
    return Trained(cell, as_of_now(stored), newest)


def _only_cell(run_id: str, target: Target, asked: str) -> str:
    cells = read_grid(target.folder).cells
    if len(cells) == 1:
        return cells[0].cell_id
    shown = "; ".join(f"{c.cell_id} ({c.arm}, seed {c.seed})" for c in cells[:12])
    raise GridError(
        f"{run_id!r} is a grid of {len(cells)} cells, and {asked}",
        where=str(target.folder),
        why=shown,
        fix="name one of its cells",
    )
