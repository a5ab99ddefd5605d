"""k̂ over steps: each step's own as a line, of recorded steps as points with their intervals."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alpkit.analysis.figures.over_steps import summarise
from alpkit.analysis.figures.panels import (
    INK,
    SHORT,
    SIDE_NAMES,
    Looks,
    legend_below,
    of_arm,
)
from alpkit.analysis.figures.pools import DRAWN, joined
from alpkit.analysis.figures.spec import ReportFigure, range_text
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading.pooled import SIDES
from alpkit.diagnostics.tails import Side

UNTRUSTED: Final = 0.7
WINDOWS: Final = 10
"""Points per arm over a run."""


def numbers(frame: GridFrame) -> pd.DataFrame:
    """Give columns arm, level, side, source, step, khat, low, high, n: k̂ over steps.

    source `windows`: mean over a window of steps of each step's own k̂, `step` its middle, low and high over
    finished seeds as in `over_steps`; `records`: k̂ of a recorded step's tokens pooled over seeds, with its
    90 % bootstrap over prompts.
    """
    keys = {f"ratio/raw/{level}/khat_{side}": (level, side) for level in DRAWN for side in SIDES}
    lines = _windows(frame, keys)
    rows = [
        (arm, item.level, item.side, "records", item.step, *item.fit[:3], item.fit.n)
        for arm in frame.arms
        for item in frame.pooled[arm].tails
        if item.level in DRAWN and np.isfinite(item.fit.estimate)
    ]
    columns = ["arm", "level", "side", "source", "step", "khat", "low", "high", "n"]
    return joined([lines, pd.DataFrame(rows, columns=columns)], columns)


def _windows(frame: GridFrame, keys: dict[str, tuple[str, Side]]) -> pd.DataFrame:
    """Average each arm's k̂ per window of steps: within a cell first, then over its seeds."""
    steps = frame.steps[
        (frame.steps["step"] > 0) & frame.steps["cell_id"].isin(frame.finished["cell_id"])
    ]
    parts = []
    if len(steps):
        width = max(1, -(-int(steps["step"].max()) // WINDOWS))
        steps = steps.assign(step=(steps["step"] - 1) // width * width + (width + 1) / 2)
    for key, (level, side) in keys.items():
        if key in steps.columns and steps[key].notna().any():
            cells = steps.groupby(["arm", "cell_id", "step"], sort=False)[key].mean().dropna()
            part = summarise(cells.reset_index(), ["arm", "step"], key)
            part = part.rename(columns={"mean": "khat"})
            parts.append(part.assign(level=level, side=side, source="windows"))
    columns = ["arm", "level", "side", "source", "step", "khat", "low", "high", "n"]
    return joined(parts, columns)


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Ratio and inverse, tokens above, responses below."""
    figure = Figure(figsize=(11, 7.0))
    grid = figure.subplots(len(DRAWN), len(SIDES), sharex=True, sharey="row", squeeze=False)
    for level, row in zip(DRAWN, grid):
        for side, panel in zip(SIDES, row):
            draw_panel(data[(data["level"] == level) & (data["side"] == side)], panel, looks)
            panel.set_title(f"{SIDE_NAMES[side]}, {SHORT[level]}")
        row[0].set_ylabel("k̂")
    for panel in grid[-1]:
        panel.set_xlabel("step")
    grid[0, 0].annotate(
        "0.7", (1.0, UNTRUSTED), xycoords=("axes fraction", "data"), xytext=(2, 0),
        textcoords="offset points", va="center", fontsize=8, color=INK,
    )  # fmt: skip
    legend_below(figure, grid.ravel(), looks)
    return figure


def draw_panel(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """k̂ per window of steps as points with their intervals (else of recorded steps), over the 0.7 line."""
    arms = list(dict.fromkeys(data["arm"]))
    span = float(data["step"].max() - data["step"].min()) if len(data) else 0.0
    for place, arm in enumerate(arms):
        look, own = looks[arm], data[data["arm"] == arm]
        # Windows where steps logged a k̂, else the recorded steps alone.
        windows = own[own["source"] == "windows"]
        points = windows if len(windows) else own[own["source"] == "records"]
        # Side by side, or the last arm's bars would hide the others'.
        shift = (place - (len(arms) - 1) / 2) * min(0.011, 0.08 / len(arms)) * span
        errors = (points["khat"] - points["low"], points["high"] - points["khat"])
        with of_arm(axes, arm):
            axes.errorbar(
                points["step"] + shift, points["khat"], [e.clip(lower=0) for e in errors], fmt="o",
                color=look.colour, ms=3.5, lw=1.1, label=arm,
            )  # fmt: skip
    axes.axhline(UNTRUSTED, color=INK, lw=1, ls=(0, (4, 2)))
    return axes


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say the range of every arm's recorded k-hat."""
    tokens = data[(data["level"] == "token") & (data["side"] == "right")]
    points = tokens[tokens["source"] == "records"]
    points = points if len(points) else tokens
    spans = [f"{arm} {range_text(part['khat'])}" for arm, part in points.groupby("arm", sort=False)]
    return (
        "k̂ over steps with a line at 0.7, ratio and inverse, tokens above, responses below. Token ratio, "
        f"lowest to highest: {'; '.join(spans)}."
    )


FIGURE: Final = ReportFigure(
    name="khat",
    section="The ratio",
    title="k̂ over steps",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        "Points: each step's own k̂, mean over a window of steps, with the 95 % t interval over finished "
        "seeds (range below three), set side by side; in the CSV also k̂ of up to 12 recorded steps, which "
        "is what is drawn where steps have none. Above the dashed 0.7 a "
        "mean of the ratios cannot be trusted at any sample size."
    ),
    absent="no finished cell logged a k̂; tails were flat or short throughout.",
)
