"""Log excesses of the token tail against an exponential: a power law is a straight line."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alpkit.analysis.figures.panels import INK, SIDE_NAMES, SOFT, Looks, arm_grid
from alpkit.analysis.figures.pools import joined, pools
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.figures.style import Look
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading.pooled import SIDES
from alpkit.diagnostics import qq_exponential, tail_size

POINTS: Final = 120


def numbers(frame: GridFrame) -> pd.DataFrame:
    """Give columns arm, side, expected, observed, low, high, slope, linearity: token tail against the exponential.

    Log excesses over the threshold of k̂'s tail, nats: a power law is a straight line. low and high: where
    a power law would put the point (`alpkit.diagnostics.qq_exponential`). The 50 largest, then every so
    many.
    """
    parts = []
    for arm, level, pool in pools(frame):
        for side in SIDES if level == "token" else ():
            found = qq_exponential(pool.top[side].values, k=tail_size(pool.n))
            if not len(found.observed):
                continue
            some = np.unique(np.r_[:50, np.geomspace(1, found.n_tail, POINTS).astype(int) - 1])
            some = some[some < found.n_tail]
            curves = (found.expected, found.observed, found.band_low, found.band_high)
            names = ("expected", "observed", "low", "high")
            part = pd.DataFrame({name: curve[some] for name, curve in zip(names, curves)})
            parts.append(
                part.assign(arm=arm, side=side, slope=found.estimate, linearity=found.linearity)
            )
    columns = ["arm", "side", "expected", "observed", "low", "high", "slope", "linearity"]
    return joined(parts, columns)


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Lay out a column per arm, the ratio above its inverse, panels of a row on the same axes."""
    arms = list(dict.fromkeys(data["arm"]))
    sides = [side for side in SIDES if (data["side"] == side).any()]
    figure, panels = arm_grid(arms, sides, 2.35)
    for side, arm, panel, leftmost in panels:
        own = data[(data["side"] == side)]
        part = own[own["arm"] == arm]
        panel.set_title(arm, color=looks[arm].colour)
        panel.set_xlabel("exponential quantile", fontsize=8)
        panel.set_xlim(0, 1.04 * own["expected"].max())
        panel.set_ylim(0, 1.06 * own["observed"].max())
        panel.tick_params(labelleft=leftmost)
        if len(part):
            draw_panel(part, panel, looks[arm])
            panel.text(
                0.04, 0.95, f"r = {part['linearity'].iloc[0]:.3f}", transform=panel.transAxes,
                va="top", fontsize=8, color=SOFT,
            )  # fmt: skip
        if leftmost:
            panel.set_ylabel(f"{SIDE_NAMES[side]}, tokens\nlog excess, nats")
    return figure


def draw_panel(data: pd.DataFrame, axes: Axes, look: Look) -> Axes:
    """Observed against expected log excess; shade: where a power law would put the points."""
    axes.fill_between(data["expected"], data["low"], data["high"], color=SOFT, alpha=0.18, lw=0)
    axes.plot(data["expected"], data["observed"], ".", color=look.colour, ms=4)
    top = float(data["expected"].max())
    axes.plot([0, top], [0, top * data["slope"].iloc[0]], color=INK, lw=0.8, ls=(0, (4, 2)))
    return axes


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say how straight every arm's points are."""
    rights = data[data["side"] == "right"].groupby("arm", sort=False).first()
    straight = [f"{arm} {row.linearity:.3f}" for arm, row in rights.iterrows()]
    return (
        "Log excesses of the token ratio and its inverse against exponential quantiles, a column per arm. "
        f"Correlation of the ratio's points, 1 for a power law: {'; '.join(straight)}."
    )


FIGURE: Final = ReportFigure(
    name="qq",
    section="The ratio",
    title="Tail against a power law (Q-Q)",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        "Log excesses over the threshold of k̂'s tail against the exponential, tokens. A power law is the "
        "dashed line and stays in the shade (90 % of such samples, pointwise, independent items); a line "
        "that bends down is a lighter tail. r: correlation of the points."
    ),
    absent="no arm's token tail has the points and the spread for one.",
)
