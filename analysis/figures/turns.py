"""Turns, answers and tool calls over steps."""

from typing import Final

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from alpkit.analysis.figures.over_steps import FINISHED_SERIES, SEEDS, over_steps, smoothed
from alpkit.analysis.figures.panels import Looks, legend_below, smoothed_line
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.text import row_dicts

DRAWN: Final = {
    "turns/mean": "turns per response",
    "turns/answered": "responses with an answer",
    "turns/void": "void responses",
    "tool/calls": "tool calls per response",
    "tool/failed": "calls that failed",
    "tool/stopped": "calls stopped at a limit",
}


def numbers(frame: GridFrame) -> pd.DataFrame:
    """`over_steps` of turns and tool calls; keys that are 0 at every step of every arm are left out."""
    lines = smoothed(over_steps(frame, list(DRAWN)))
    lines = lines[(lines["series"] == FINISHED_SERIES) & (lines["step"] > 0)]
    acted = lines.groupby("metric")["mean"].transform("max") > 0
    return lines[acted].reset_index(drop=True)


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """A panel per quantity, three in a row."""
    names = [name for name in DRAWN if (data["metric"] == name).any()]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.7 * columns + 0.4, 2.9 * rows + 0.5))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for name, panel in zip(names, grid):
        part = data[data["metric"] == name]
        for arm, own in part.groupby("arm", sort=False):
            smoothed_line(own, panel, looks, str(arm))
        panel.set_title(DRAWN[name])
        panel.set_xlabel("step")
        if name in ("turns/mean", "tool/calls"):
            continue
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    for panel in grid[len(names) :]:
        panel.set_visible(False)
    legend_below(figure, grid, looks)
    return figure


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """First and last value of everything that is drawn."""
    ends = data.groupby(["metric", "arm"], sort=False)["mean"].agg(["first", "last"]).reset_index()
    ends = ends.sort_values("metric", key=lambda names: names.map(list(DRAWN).index), kind="stable")
    parts = [
        f"{row['arm']}, {DRAWN[row.text('metric')]}: {row['first']:.2f} to {row['last']:.2f}"
        for row in row_dicts(ends)
    ]
    return f"Turns and tool calls over steps, a panel each. First to last step: {'; '.join(parts)}."


FIGURE: Final = ReportFigure(
    name="turns",
    section="Turns",
    title="Turns and tool calls over steps",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        "Turns of the model and tool calls per response; answers and void responses as shares of responses, failed "
        f"and stopped calls as shares of calls. Smoothed over five points, the raw mean pale behind. {SEEDS}"
    ),
    absent="no finished cell has an environment.",
)
