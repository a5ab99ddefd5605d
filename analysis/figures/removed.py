"""Shares of the importance weight and of tokens that the corrections removed, over steps."""

from typing import Final

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from alpkit.analysis.figures.over_steps import FINISHED_SERIES, SEEDS, over_steps, smoothed
from alpkit.analysis.figures.panels import Looks, legend_below, smoothed_line
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.text import row_dicts

REMOVED: Final = {
    "weight_removed": "importance weight removed",
    "truncated": "tokens truncated",
    "raised": "tokens raised",
    "masked": "tokens masked",
    "rejected": "tokens rejected",
    "clipped_low": "tokens clipped low",
    "clipped_high": "tokens clipped high",
    "dual_clipped": "tokens dual-clipped",
}


def numbers(frame: GridFrame) -> pd.DataFrame:
    """`over_steps` of what the correction took: receipt/weight_removed, and shares of tokens by kind.

    Keys that are 0 at every step of every arm are left out: the receipt table holds them.
    """
    keys = [f"receipt/{name}" for name in REMOVED]
    lines = smoothed(over_steps(frame, keys))
    lines = lines[lines["series"] == FINISHED_SERIES]
    acted = lines.groupby("metric")["mean"].transform("max") > 0
    return lines[acted].reset_index(drop=True)


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Lay out a panel per kind of removal that acted in some arm, shares over steps."""
    names = [name for name in REMOVED if (data["metric"] == f"receipt/{name}").any()]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.7 * columns + 0.4, 2.9 * rows + 0.5))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for name, panel in zip(names, grid):
        part = data[data["metric"] == f"receipt/{name}"]
        for arm, own in part.groupby("arm", sort=False):
            smoothed_line(own, panel, looks, str(arm))
        panel.set_title(REMOVED[name])
        panel.set_ylim(bottom=0)
        panel.set_xlabel("step")
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    for panel in grid[len(names) :]:
        panel.set_visible(False)
    legend_below(figure, grid, looks)
    return figure


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say the mean share of everything that acted."""
    means = data.groupby(["metric", "arm"], sort=False)["mean"].mean().reset_index()
    parts = [
        f"{row['arm']}, {REMOVED[row.text('metric').removeprefix('receipt/')]}: {100 * row.number('mean'):.2g} %"
        for row in row_dicts(means[means["mean"] > 0])
    ]
    return f"What each correction took over steps, a panel per kind. Mean over steps: {'; '.join(parts)}."


FIGURE: Final = ReportFigure(
    name="removed",
    section="Corrections",
    title="What the corrections removed",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        f"Shares of the importance weight (first panel, where present) and of the response tokens. Kinds "
        f"that never acted in any arm are left out. Smoothed over five points, the raw mean pale behind. {SEEDS}"
    ),
    absent="no correction touched a token in any finished cell.",
)
