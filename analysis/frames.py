"""A grid on disk as pandas frames: one row per cell, one row per step, token records on demand.

Reads the run folder alone, and the MLflow store only where that is gone; tolerates what a killed run
leaves behind, and says what it could not read. Not here: the files (`alpkit.analysis.reading.folders`), scores
(`alpkit.analysis.seeds.scores`), tails (`alpkit.analysis.tables.tails`).

    frame = analysis.load("latest"); frame.summary(); frame.plot("envelope"); frame.table("tails")
    frame.cells; frame.steps; frame.spikes; frame.records.tokens(arm="grpo")
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from alpkit.analysis.reading.evaluations import PassCurves, read_pass_curves
from alpkit.analysis.reading.folders import (
    CELL_COLUMNS,
    GridInfo,
    Missing,
    cell_rows,
    grid_info,
    headline,
)
from alpkit.analysis.reading.pooled import ArmPool, pool_arm
from alpkit.analysis.reading.records import RecordedCell, Records
from alpkit.analysis.seeds.scores import FINISHED, add_scores
from alpkit.analysis.spike_frame import SpikeLog, read_spikes
from alpkit.errors import GridError, TrackingError
from alpkit.runs.find import resolve
from alpkit.runs.lock import is_live

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alpkit.analysis.notebook import Sample

NOTEBOOK_WIDTH: Final = 10.0
"""Inches of a figure in a notebook."""
Config = dict[str, object]
"""A resolved configuration as plain sections and values."""


@dataclass(frozen=True)
class GridFrame:
    """A grid (or one of its cells) as it lies on disk.

    `cells`: a row per cell, scores only where it finished; `steps`: a row per cell and step, metric
    keys as columns (step 0 is the evaluation before training); `records`: per-token rows on demand.
    """

    cells: pd.DataFrame
    steps: pd.DataFrame
    records: Records
    grid: GridInfo
    missing: tuple[Missing, ...] = ()
    only_cell: str = ""
    configs: Mapping[str, Config] = field(default_factory=dict)
    """Each cell's configuration; empty where it could not be read."""

    @property
    def arms(self) -> list[str]:
        """Arms in the grid file's order."""
        return list(dict.fromkeys(self.cells["arm"]))

    @cached_property
    def arm_configs(self) -> dict[str, Config]:
        """Every arm's configuration without its seed, from its first cell that has a readable one."""
        first: dict[str, Config] = {}
        for arm, cell in zip(self.cells["arm"], self.cells["cell_id"]):
            if str(arm) not in first and (config := self.config(str(cell))):
                first[str(arm)] = config
        return first

    def config(self, cell_id: str) -> Config:
        """A cell's configuration without its seed; empty where it could not be read."""
        return {k: v for k, v in self.configs.get(cell_id, {}).items() if k != "seed"}

    @cached_property
    def spike_log(self) -> SpikeLog:
        """Every spike of the grid with its surroundings, and how often each arm's runs spike."""
        return read_spikes(self.grid.folder, self.cells, self.steps)

    @cached_property
    def pass_curves(self) -> PassCurves:
        """pass@k of the finished cells for every k, where all of them kept how often each item was solved."""
        return read_pass_curves(self.grid.folder, self.finished)

    @cached_property
    def pooled(self) -> dict[str, ArmPool]:
        """Each arm's tails over its finished cells: one pass over the records, made when first asked for."""
        cells = set(self.finished["cell_id"])
        return {arm: pool_arm(self.records, arm, cells) for arm in self.arms}

    @cached_property
    def spikes(self) -> pd.DataFrame:
        """Every spike as a row, with the prompt of the response that carried most of it."""
        from alpkit.analysis.notebook import spike_prompts

        rows = self.spike_log.rows
        prompts = [
            next(iter(spike_prompts(self.grid.folder, str(cell), int(step), str(metric))), "")
            for cell, step, metric in zip(rows["cell_id"], rows["step"], rows["metric"])
        ]
        return rows.assign(prompt=prompts)

    def plot(self, name: str = "summary") -> "Figure":
        """Draw a figure of the report by its name, `envelope` say, at a notebook's size.

        Raises `GridError` for a name that is no figure, and where the grid has nothing to draw.
        """
        from alpkit.analysis.figures import draw

        figure = draw(name, self)
        width, height = figure.get_size_inches()
        # Wider than a notebook's column it would be shrunk, and its words with it.
        if width > NOTEBOOK_WIDTH:
            figure.set_size_inches(NOTEBOOK_WIDTH, height * max(NOTEBOOK_WIDTH / width, 0.85))
        return figure

    def table(self, name: str = "overview") -> pd.DataFrame:
        """Give the numbers of a table of the report by its name, `tails` say: what its CSV holds.

        Raises `GridError` for a name that is no table of this grid's report.
        """
        from alpkit.analysis.report.tables import table_named

        return table_named(name, self).data

    def summary(self) -> pd.DataFrame:
        """Give a row per arm as on the report's first screen, as text with units and intervals."""
        from alpkit.analysis.tables.overview import overview, overview_table

        shown = overview_table(overview(self)).shown
        return shown.set_index("arm") if len(shown) else shown

    def sample(self, cell: str, step: int, row: int) -> "Sample":
        """Read a recorded response with its prompt; a notebook shows its tokens coloured by their log ratio.

        `row` is the response's number in its step (`sample` in the records). Raises `GridError` where the
        step has no such response, `TrackingError` where the step was not recorded.
        """
        from alpkit.analysis.notebook import sample

        return sample(self.grid.folder, cell, step, row)

    def _repr_html_(self) -> str:
        """Show the question and the first screen's table in a notebook."""
        question = f"<p>{html.escape(self.grid.question)}</p>" if self.grid.question else ""
        states = ", ".join(
            f"{n} {state}" for state, n in self.cells["state"].value_counts().items()
        )
        table = self.summary().to_html(border=0) if len(self.cells) else ""
        head = f"<h4>{html.escape(self.grid.name)}: {len(self.cells)} cells ({states})</h4>"
        return f"<div>{head}{question}{table}</div>"

    @property
    def unread(self) -> tuple[Missing, ...]:
        """Record files whose rows turned out unreadable when `pooled` read them: not in the tails."""
        known = {item.where for item in self.missing}
        self.pooled  # noqa: B018 - reading is what finds them
        faults = self.records.unread.values()
        unread = [(fault.place_in(self.grid.folder), fault.reason) for fault in faults]
        return tuple(
            Missing(place, f"its rows cannot be read ({reason}); tails leave this step out")
            for place, reason in unread
            if place not in known
        )

    @property
    def finished(self) -> pd.DataFrame:
        """The cells whose numbers may be compared."""
        return self.cells[self.cells["state"] == FINISHED]


def load(
    run_id: str = "latest",
    *,
    root: Path | str = Path("."),
    strict: bool = True,
    tracking_uri: str | None = None,
) -> GridFrame:
    """Read a grid by folder, run id, `latest`, name or prefix; from its MLflow store if the folder is gone.

    `strict=True` raises a `TrackingError` when anything cannot be read; `strict=False` reads what
    there is and lists the rest in `.missing`. An unfinished cell is no error: see its state.
    """
    folder, only = _resolve(run_id, Path(root), tracking_uri)
    info, listed = grid_info(folder, only)
    live = is_live(folder)
    read = [cell_rows(folder, cell, live=live) for cell in listed]
    rows = [cell.row for cell in read]
    missing = [item for cell in read for item in cell.missing]
    cells = pd.DataFrame(rows, columns=None if rows else [*CELL_COLUMNS, *headline({})])
    records = Records(
        [
            RecordedCell(own.cell_id, own.arm, own.seed, folder / own.cell_id)
            for own in (cell.listed for cell in read)
        ]
    )
    missing += [
        Missing(records.place(cell.listed.cell_id), "no token records; tails leave this cell out")
        for cell in read
        if cell.state == FINISHED and not records.steps(cell.listed.cell_id)
    ]
    missing += [
        Missing(fault.place_in(folder), f"not readable as Parquet ({fault.reason})")
        for fault in records.unreadable()
    ]
    if strict and missing:
        raise TrackingError(
            missing[0].what,
            where=missing[0].where,
            why=f"{len(missing)} thing(s) of this grid cannot be read as written",
            fix="pass strict=False to read what there is and look at .missing",
        )
    steps = _join([cell.steps for cell in read])
    scored = add_scores(cells, steps)
    configs = {cell.listed.cell_id: cell.config for cell in read}
    return GridFrame(scored, steps, records, info, tuple(missing), only or "", configs)


def _resolve(run_id: str, root: Path, tracking_uri: str | None) -> tuple[Path, str | None]:
    try:
        folder, only = resolve(run_id, root)
        return folder, only
    except GridError:
        from alpkit.analysis.reading.store import (
            restore,  # imports mlflow: seconds, for the rare case
        )

        found = restore(run_id, root, tracking_uri)
        if found is None:
            raise
        return found.folder, found.cell_id


def _join(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    full = [part for part in parts if not part.empty]
    if not full:
        return pd.DataFrame(columns=["cell_id", "arm", "seed", "step"])
    return pd.concat(full, ignore_index=True)
