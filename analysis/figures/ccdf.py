"""Draw the share of ratios above z, and of inverses, on log-log axes, over the floors of arithmetic."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alpkit.analysis.figures.panels import (
    INK,
    SHORT,
    SIDE_NAMES,
    Looks,
    legend_below,
    log_ticks,
    of_arm,
)
from alpkit.analysis.figures.pools import DRAWN, NO_RECORDS, joined, pools
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading.items import ROUNDOFF
from alpkit.analysis.reading.pooled import SIDES, Pool
from alpkit.analysis.reading.reducers import EDGES
from alpkit.diagnostics.levels import Level, reduce_to_level
from alpkit.diagnostics.tails import Side
from alpkit.runs.batching import scan_batching

_SPAN: Final = 2.0**-9  # sizes below this share of the largest are one pixel on the axis
_POINTS: Final = 200
BATCHING: Final = "batching"
FLOORS: Final = {
    **{dtype: f"{dtype} rounding" for dtype in ROUNDOFF},
    BATCHING: "the trainer's own batching",
}
"""Rows of the figure that are no arm -> their name in the legend."""
_DASHES: Final = ((0, (1, 1)), (0, (4, 1.5)), (0, (5, 1, 1, 1)))


def numbers(frame: GridFrame) -> pd.DataFrame:
    """Give columns arm, level, side, z, p, low, high: share of ratios (left: inverses) above z > 1.

    low and high: 90 % bootstrap over prompts; a resample without any ratio above z counts as 0. Rows of
    arm `float32` and `bfloat16` are the numerical floor: what rounding the log-probs of the first arm
    alone would give (`items.unit_rounding`). Rows of arm `batching`: what the trainer's own batching does
    to them, as the first arm's runs measured it.
    """
    parts, floors = [], []
    for arm, level, pool in pools(frame):
        named: Level = "token" if level == "token" else "product"
        for side in SIDES:
            curve = pool.curve[side]
            largest = max(float(pool.top[side].values[0]), 0.0)
            # A share of 0 has no place on a logarithmic axis.
            seen = (curve.survival > 0) & (curve.log_size >= largest * _SPAN)
            columns = {"p": curve.survival, "low": curve.low, "high": curve.high}
            part = pd.DataFrame({"z": curve.log_size, **columns})[seen]
            part["z"] = np.exp(part["z"])
            parts.append(part.assign(arm=arm, level=level, side=side))
            if arm == frame.arms[0]:
                floors += [
                    _floor(pool, unit).assign(arm=dtype, level=level, side=side)
                    for dtype, unit in ROUNDOFF.items()
                ]
                floors.append(_batching(frame, named, side).assign(level=level, side=side))
    return joined([*parts, *floors], ["arm", "level", "side", "z", "p", "low", "high"])


def _floor(pool: Pool, unit: float) -> pd.DataFrame:
    # The last three decades of a share: what lies below is the axis' own edge.
    seen = (pool.floor > 0) & (pool.floor < 0.999)
    z = np.exp(EDGES[seen] * unit)
    return pd.DataFrame({"z": z, "p": pool.floor[seen], "low": np.nan, "high": np.nan})


def _batching(frame: GridFrame, level: Level, side: Side) -> pd.DataFrame:
    """Compute the share of the first arm's items that batching alone moves beyond z; no rows where not measured."""
    cells = frame.finished.loc[frame.finished["arm"] == frame.arms[0], "cell_id"]
    read = [scan_batching(frame.grid.folder / str(cell)).rows for cell in cells]
    items = [
        reduce_to_level(measured.difference, measured.sample.astype(np.int64), level)
        for rows in read
        for measured in rows
    ]
    values = np.concatenate([np.empty(0), *items]) * (1 if side == "right" else -1)
    beyond = np.sort(values[values > 0])
    # Enough points for the eye; the largest is among them.
    spread = np.linspace(0, max(len(beyond) - 1, 0), min(_POINTS, len(beyond)))
    chosen = beyond[np.unique(spread.astype(int))]
    share = (len(beyond) - np.searchsorted(beyond, chosen)) / max(len(values), 1)
    return pd.DataFrame(
        {"z": np.exp(chosen), "p": share, "low": np.nan, "high": np.nan, "arm": BATCHING}
    )


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """The ratio and its inverse, at token and at product level."""
    figure = Figure(figsize=(10, 7.2))
    grid = figure.subplots(len(DRAWN), len(SIDES), sharey="row", squeeze=False)
    for level, row in zip(DRAWN, grid):
        for side, panel in zip(SIDES, row):
            part = data[(data["level"] == level) & (data["side"] == side)]
            draw_panel(part, panel, looks)
            panel.set_title(f"{SIDE_NAMES[side]}, {SHORT[level]}")
            panel.set_xlabel("z")
            if len(part):
                panel.set_xlim(right=_reach(part))
            log_ticks(panel.xaxis)
            log_ticks(panel.yaxis)
        row[0].set_ylabel("share of items above z")
    legend_below(figure, grid.ravel(), looks)
    return figure


def _reach(data: pd.DataFrame) -> float:
    """Find the end of the axis: the largest ratio drawn, unless that is one arm's outlier."""
    arms = data[~data["arm"].isin(FLOORS)]
    tops = np.log((arms if len(arms) else data).groupby("arm")["z"].max())
    return 1.1 * float(np.exp(min(tops.max(), 2 * tops.median())))


def draw_panel(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """P(ratio > z) on log-log axes per arm, with the band of the bootstrap over prompts, over the floor."""
    for arm, part in data[~data["arm"].isin(FLOORS)].groupby("arm", sort=False):
        look = looks[str(arm)]
        with of_arm(axes, str(arm)):
            axes.plot(part["z"], part["p"], color=look.colour, ls=look.line, label=str(arm))
            axes.fill_between(
                part["z"], part["low"], part["high"], color=look.colour, alpha=0.14, lw=0
            )
    for (name, label), dashes in zip(FLOORS.items(), _DASHES):
        floor = data[data["arm"] == name]
        if len(floor):
            axes.plot(floor["z"], floor["p"], color=INK, lw=1.1, ls=dashes, label=f"floor: {label}")
    axes.set(xscale="log", yscale="log")
    return axes


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say the largest ratio of every arm."""
    tokens = data[(data["level"] == "token") & (data["side"] == "right")]
    tokens = tokens[tokens["arm"].isin(frame.arms)]
    tops = [f"{arm} {part['z'].max():.1f}" for arm, part in tokens.groupby("arm", sort=False)]
    return (
        "Share of ratios above z on log-log axes, one line per arm over the floor of rounding; ratio "
        f"left, inverse right, tokens above, responses below. Largest z drawn for tokens: {'; '.join(tops)}."
    )


FIGURE: Final = ReportFigure(
    name="ccdf",
    section="The ratio",
    title="Tail of the ratio and of its inverse",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        "Band: 90 % bootstrap over prompts. A straight line would be a power law, but looks alike "
        "for a log-normal: read it with k̂ and the Q-Q plot. Where the band reaches the bottom, single "
        "prompts decide. Floor: two equal policies whose log-probs are each rounded to that dtype (the "
        "first arm's tokens, errors uniform within half a unit in the last place); rounded logits and "
        "activations give more. The trainer's own batching: the first arm's log-probs alone against eight "
        "responses at a time, at equal weights. What lies near a floor is arithmetic, not policy. "
        "An arm whose largest ratio is far beyond the others' runs off the axis."
    ),
    absent=NO_RECORDS,
)
