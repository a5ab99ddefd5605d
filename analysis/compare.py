"""Compare arms of one grid or of several: where their configurations differ, and where their scores do.

Arms of another task, model or backend are refused: their numbers answer different questions. Not here:
the report of one grid (`alpkit.analysis.report`).

    compare(["quickstart:seq-alp", "layers:seq-bypass"]).table.markdown()
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from alpkit.analysis.figures.style import looks
from alpkit.analysis.frames import Config, GridFrame, load
from alpkit.analysis.seeds.scores import FINISHED
from alpkit.analysis.seeds.verdicts import Verdict, verdicts
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.overview import overview_of, overview_table
from alpkit.analysis.tables.per_arm import interval_columns, interval_texts, score_intervals
from alpkit.analysis.text import DASH
from alpkit.config.grid.comparisons import differing, flat, ingredients
from alpkit.errors import AlpkitError, GridError, did_you_mean
from alpkit.runs.find import Target, resolve

SHOWN: Final = (
    "final_reward",
    "eval_greedy",
    "eval_avg_at_k",
    "k3_mean",
    "k3_peak",
    "width",
    "khat_right",
    "ess_product",
)
# What makes numbers answer different questions, by the config fields that say so.
QUESTIONS: Final[dict[str, tuple[str, ...]]] = {
    "model": ("model", "revision"),
    "task": ("task",),
    "backend": ("rollout.engine", "dtype"),
}


class Item(NamedTuple):
    """One column of the comparison: an arm (or one cell) of a grid, and its configuration."""

    label: str
    cells: pd.DataFrame
    config: Config


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison.

    `differences`: dotted config field -> its value per item; `verdicts`: every item against the first.

    `notes`: what a reader must know before believing a difference.
    """

    items: tuple[Item, ...]
    differences: dict[str, list[object]]
    table: Table
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    overview: Table
    """Measures of the comparison: those of a report's first screen."""
    colours: dict[str, str]
    """Label -> hex colour."""


def compare(
    names: Sequence[str], *, root: Path | str = Path("."), force: bool = False
) -> Comparison:
    """Compare arms, cells or whole grids: `grid`, `grid:arm`, a cell's id or run id, or a folder.

    Raises `GridError` for fewer than two items, an unknown one, and, unless `force`, for items that
    differ in task, model or backend.
    """
    frames: dict[Path, GridFrame] = {}

    def frame_of(folder: Path) -> GridFrame:
        if folder not in frames:
            frames[folder] = load(str(folder), strict=False)
        return frames[folder]

    chosen = [choice for name in names for choice in _chosen(name, Path(root), frame_of)]
    prefixes = _prefixes(frames)
    items = tuple({i.label: i for i in (_item(choice, prefixes) for choice in chosen)}.values())
    if len(items) < 2:
        raise GridError(
            "there is nothing to compare",
            where=" ".join(names),
            why=f"these name {len(items)} arm{'s' if len(items) != 1 else ''}, two are needed",
            fix="name two arms or cells: alpkit compare GRID:ARM GRID:ARM",
        )
    differences = _differences(items)
    notes = [*_questions(items, differences, force), *_notes(items, differences, frames.values())]
    cells = pd.concat([item.cells.assign(arm=item.label) for item in items], ignore_index=True)
    found = verdicts(cells, [(item.label, items[0].label) for item in items[1:]])
    colours = {arm: look.colour for arm, look in looks(cells).items()}
    at_a_glance = overview_table(overview_of([(item.label, item.cells) for item in items]))
    return Comparison(
        items, differences, _table(items), tuple(found), tuple(notes), at_a_glance, colours
    )


class _Choice(NamedTuple):
    """An arm, or one cell of it, of a loaded grid."""

    frame: GridFrame
    arm: str
    cell: str | None


def _prefixes(frames: Mapping[Path, GridFrame]) -> dict[Path, str]:
    """Give what tells a grid's arms apart: nothing for one grid, else the grid's name, else its folder."""
    if len(frames) == 1:
        return dict.fromkeys(frames, "")
    names = [frame.grid.name for frame in frames.values()]
    unique = len(set(names)) == len(names)
    return {path: f"{f.grid.name if unique else path}:" for path, f in frames.items()}


def _item(choice: _Choice, prefixes: Mapping[Path, str]) -> Item:
    folder = choice.frame.grid.folder
    cells = choice.frame.cells[choice.frame.cells["arm"] == choice.arm]
    if choice.cell:
        cells = cells[cells["cell_id"] == choice.cell]
    configs = (choice.frame.config(str(cell)) for cell in cells["cell_id"])
    label = f"{prefixes[folder]}{choice.arm}" + (f" ({choice.cell})" if choice.cell else "")
    return Item(label, cells, next((c for c in configs if c), {}))


def _chosen(name: str, root: Path, frame_of: Callable[[Path], GridFrame]) -> list[_Choice]:
    target, arm = _find(name, root)
    if target.cell_id is not None:
        # A retired cell is in no list of its grid, so it is loaded on its own.
        frame = frame_of(target.folder)
        if target.cell_id not in set(frame.cells["cell_id"]):
            frame = load(str(target.folder / target.cell_id), strict=False)
        own = frame.cells.loc[frame.cells["cell_id"] == target.cell_id, "arm"]
        return [_Choice(frame, str(own.iloc[0]), target.cell_id)]
    frame = frame_of(target.folder)
    if arm is None:
        return [_Choice(frame, each, None) for each in frame.arms]
    if arm not in frame.arms:
        raise GridError(
            f"no arm {arm!r} in grid {frame.grid.name}",
            where=name,
            why=f"its arms are: {', '.join(frame.arms)}",
            fix=did_you_mean(arm, frame.arms) or "use one of them",
        )
    return [_Choice(frame, arm, None)]


def _find(name: str, root: Path) -> tuple[Target, str | None]:
    """Find what a name means: the whole of it first, as a folder may hold a colon."""
    grid, colon, arm = name.partition(":")
    try:
        return resolve(name, root), None
    except AlpkitError:
        if not colon:
            raise
    return resolve(grid, root), arm


def _differences(items: Sequence[Item]) -> dict[str, list[object]]:
    fields: dict[str, None] = {}
    for item in items[1:]:
        fields |= dict.fromkeys(differing(items[0].config, item.config))
    values = [flat(item.config) for item in items]
    return {field: [value.get(field) for value in values] for field in fields}


def _questions(
    items: Sequence[Item], differences: dict[str, list[object]], force: bool
) -> list[str]:
    """Refuse items that answer different questions; with `force`, say so first instead."""
    faults = [
        f"{what}: " + ", ".join(f"{i.label} {v}" for i, v in zip(items, values))
        for what, fields in QUESTIONS.items()
        for field, values in differences.items()
        if any(field == asked or field.startswith(f"{asked}.") for asked in fields)
    ]
    unknown = [item.label for item in items if not item.config]
    if unknown:
        faults = [f"config: that of {', '.join(unknown)} cannot be read"]
    if faults and not force:
        raise GridError(
            "these runs do not answer the same question",
            where=" ".join(item.label for item in items),
            why="; ".join(faults),
            fix="compare runs of one task, model and backend, or pass --force to see the numbers anyway",
        )
    return [f"Not comparable, shown by force. {fault}." for fault in faults]


def _notes(
    items: Sequence[Item], differences: dict[str, list[object]], frames: Iterable[GridFrame]
) -> list[str]:
    notes = []
    parts = ingredients(differences)
    if len(parts) > 1:
        notes.append(f"They differ in {len(parts)} things at once: {', '.join(parts)}.")
    if any(field.startswith(("rollout.", "task.")) for field in differences):
        notes.append("Their sampling differs, so a seed's draws are not shared: pairs are looser.")
    for item in items:
        left = item.cells[item.cells["state"] != FINISHED]
        if len(left):
            notes.append(
                f"{item.label}: {len(left)} cell(s) of {len(item.cells)} not finished, left out."
            )
    notes += [f"{frame.grid.name}: {missing}" for frame in frames for missing in frame.missing]
    return notes


def _table(items: Sequence[Item]) -> Table:
    data, shown = [], []
    for item in items:
        done = item.cells[item.cells["state"] == FINISHED]
        intervals = score_intervals(done, SHOWN)
        raw: dict[str, object] = {"arm": item.label, "n": len(done)}
        for column, interval in intervals.items():
            raw |= interval_columns(column, interval)
        data.append(raw)
        shown.append({"arm": item.label, "n": str(len(done)), **interval_texts(intervals)})
    text = pd.DataFrame(shown)
    # A score that nobody logged is no column.
    text = text.loc[:, [not (text[name] == DASH).all() for name in text.columns]]
    caption = (
        "Finished seeds: mean [95 % t interval] from three on, both points with two. Scores as in the "
        "report: means over the last steps or evaluations, or over all of training."
    )
    return Table("compare", "Comparison", caption, pd.DataFrame(data), text)
