"""Hill estimate of the tail shape over the number of largest items that it uses."""

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
from alpkit.analysis.figures.spec import ReportFigure, range_text
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading.pooled import SIDES
from alpkit.diagnostics import hill_curve, tail_size

POINTS: Final = 60
RESAMPLES: Final = 100
STEADY: Final = 20
"""Items from which on a Hill estimate says something about the axis that it needs."""


def numbers(frame: GridFrame) -> pd.DataFrame:
    """Give columns arm, level, side, k, hill, low, high, n_tail: Hill estimates over the number of largest items.

    k is log-spaced, as far as the pool's kept items and its resamples reach; low and high: 90 % bootstrap
    over prompts; n_tail is where k̂ and the table's Hill stand.
    """
    parts = []
    for arm, level, pool in pools(frame):
        for side in SIDES:
            top, cluster = pool.top[side]
            # A resample has more or fewer of the kept items than the data: half of them it always has.
            most = pool.n // 5 if top.size == pool.n else min(top.size // 2, pool.n // 5)
            if most < 10:
                continue
            ks = np.unique(np.geomspace(5, most, POINTS).astype(int))
            found = hill_curve(top, ks, cluster=cluster, n_boot=RESAMPLES)
            columns = {"hill": found.estimate, "low": found.low, "high": found.high}
            # Items below a ratio of 1 are no tail: an estimate that reaches down to them means nothing.
            part = pd.DataFrame({"k": ks, **columns})[top[ks] > 0]
            parts.append(part.assign(arm=arm, level=level, side=side, n_tail=tail_size(pool.n)))
    return joined(parts, ["arm", "level", "side", "k", "hill", "low", "high", "n_tail"])


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Ratio and inverse, tokens above, responses below."""
    figure = Figure(figsize=(10, 6.8))
    grid = figure.subplots(len(DRAWN), len(SIDES), sharey="row", squeeze=False)
    for level, row in zip(DRAWN, grid):
        for side, panel in zip(SIDES, row):
            part = data[(data["level"] == level) & (data["side"] == side)]
            draw_panel(part, panel, looks)
            panel.set_title(f"{SIDE_NAMES[side]}, {SHORT[level]}", pad=12)
            panel.set_xlabel("k, largest items used")
            log_ticks(panel.xaxis)
        if len(part := data[data["level"] == level]):
            row[0].set_ylim(0, _top(part))
        row[0].set_ylabel("Hill estimate of ξ")
    legend_below(figure, grid.ravel(), looks)
    return figure


def _top(data: pd.DataFrame) -> float:
    """Choose the height of the axis: enough for the curves but not for the few items at one arm's start."""
    steady = data[data["k"] >= STEADY]
    tops = (steady if len(steady) else data).groupby(["arm", "side"])["hill"].max()
    return 1.25 * min(float(tops.max()), 2 * float(tops.median()))


def draw_panel(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """Hill estimates over k with their bands, one line per arm; triangles on top are where k̂'s tail starts."""
    for arm, part in data.groupby("arm", sort=False):
        look = looks[str(arm)]
        with of_arm(axes, str(arm)):
            axes.plot(
                part["k"], part["hill"], color=look.colour, ls=look.line, lw=1.5, label=str(arm)
            )
            axes.fill_between(
                part["k"], part["low"], part["high"], color=look.colour, alpha=0.12, lw=0
            )
    # One triangle per tail size: arms of one size have one tail.
    for start in sorted(set(data["n_tail"])):
        axes.plot(start, 1.0, "v", color=INK, ms=6, clip_on=False,
                  transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set_xscale("log")
    return axes


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say the range of every arm's curve over the larger half of k."""
    tokens = data[(data["level"] == "token") & (data["side"] == "right")]
    spans = [
        f"{arm} {range_text(part.loc[part['k'] >= 30, 'hill'])}"
        for arm, part in tokens.groupby("arm", sort=False)
    ]
    return (
        "Hill estimate over the number of largest items used, one line per arm. Token ratio, lowest to "
        f"highest from 30 items on: {'; '.join(spans)}."
    )


FIGURE: Final = ReportFigure(
    name="hill",
    section="The ratio",
    title="Hill stability",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        "Hill estimate of the tail shape ξ over the number of largest items that it uses; band: 90 % "
        "bootstrap over prompts. A power law shows as a plateau; a curve that keeps rising with k has no "
        "single ξ. Triangles on top: where k̂ and the table's Hill take their tail."
    ),
    absent=NO_RECORDS,
)
