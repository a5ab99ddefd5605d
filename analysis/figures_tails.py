"""Figures of the ratio's tails: Hill stability, Q-Q, k̂ and the factors over steps.

Functions `(data, axes, looks) -> axes` and the sheets made of them; every number drawn is in `data`.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alpkit.analysis.panels import (
    INK,
    SHORT,
    SIDE_NAMES,
    SOFT,
    Looks,
    arm_grid,
    legend_below,
    line,
    log_ticks,
    span_lines,
)
from alpkit.analysis.plotted import FACTORS
from alpkit.analysis.plotted_tails import DRAWN
from alpkit.analysis.reading.pooled import SIDES
from alpkit.analysis.style import Look

UNTRUSTED = 0.7
NO_VARIANCE = 0.5


def hill(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """Hill estimates over k with their bands, one line per arm; triangles on top are where k̂'s tail starts."""
    for arm, part in data.groupby("arm", sort=False):
        look = looks[str(arm)]
        axes.plot(part["k"], part["hill"], color=look.colour, ls=look.line, lw=1.5, label=str(arm))
        axes.fill_between(part["k"], part["low"], part["high"], color=look.colour, alpha=0.12, lw=0)
    # One triangle per tail size: arms of one size have one tail.
    for start in sorted(set(data["n_tail"])):
        axes.plot(start, 1.0, "v", color=INK, ms=6, clip_on=False,
                  transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set_xscale("log")
    return axes


def hill_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Ratio and inverse, tokens above, responses below."""
    figure = Figure(figsize=(10, 6.8))
    grid = figure.subplots(len(DRAWN), len(SIDES), sharey="row", squeeze=False)
    for level, row in zip(DRAWN, grid):
        for side, panel in zip(SIDES, row):
            part = data[(data["level"] == level) & (data["side"] == side)]
            hill(part, panel, looks)
            panel.set_title(f"{SIDE_NAMES[side]}, {SHORT[level]}", pad=12)
            panel.set_xlabel("k, largest items used")
            log_ticks(panel.xaxis)
        if len(part := data[data["level"] == level]):
            # Bands of five items reach anywhere; the lines decide the axis.
            row[0].set_ylim(0, 1.25 * part["hill"].max())
        row[0].set_ylabel("Hill estimate of ξ")
    legend_below(figure, grid.ravel(), looks)
    return figure


def qq(data: pd.DataFrame, axes: Axes, look: Look) -> Axes:
    """Observed against expected log excess; shade: where a power law would put the points."""
    axes.fill_between(data["expected"], data["low"], data["high"], color=SOFT, alpha=0.18, lw=0)
    axes.plot(data["expected"], data["observed"], ".", color=look.colour, ms=4)
    top = float(data["expected"].max())
    axes.plot([0, top], [0, top * data["slope"].iloc[0]], color=INK, lw=0.8, ls=(0, (4, 2)))
    return axes


def qq_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """A column per arm, the ratio above its inverse, panels of a row on the same axes."""
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
            qq(part, panel, looks[arm])
            panel.text(
                0.04, 0.95, f"r = {part['linearity'].iloc[0]:.3f}", transform=panel.transAxes,
                va="top", fontsize=8, color=SOFT,
            )  # fmt: skip
        if leftmost:
            panel.set_ylabel(f"{SIDE_NAMES[side]}, tokens\nlog excess, nats")
    return figure


def khat(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """k̂ of every step as a line, of recorded steps as points with their intervals, over the 0.7 line."""
    arms = list(dict.fromkeys(data["arm"]))
    span = float(data["step"].max() - data["step"].min()) if len(data) else 0.0
    for place, arm in enumerate(arms):
        look, own = looks[arm], data[data["arm"] == arm]
        steps = own[own["source"] == "steps"]
        axes.plot(steps["step"], steps["khat"], color=look.colour, ls=look.line, lw=1, alpha=0.45)
        points = own[own["source"] == "records"]
        # Side by side, or the last arm's bars would hide the others'.
        shift = (place - (len(arms) - 1) / 2) * min(0.011, 0.08 / len(arms)) * span
        errors = (points["khat"] - points["low"], points["high"] - points["khat"])
        axes.errorbar(
            points["step"] + shift, points["khat"], [e.clip(lower=0) for e in errors], fmt="o",
            color=look.colour, ms=3.5, lw=1.1, label=arm,
        )  # fmt: skip
    axes.axhline(UNTRUSTED, color=INK, lw=1, ls=(0, (4, 2)))
    return axes


def khat_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Ratio and inverse, tokens above, responses below."""
    figure = Figure(figsize=(11, 7.0))
    grid = figure.subplots(len(DRAWN), len(SIDES), sharex=True, sharey="row", squeeze=False)
    for level, row in zip(DRAWN, grid):
        for side, panel in zip(SIDES, row):
            khat(data[(data["level"] == level) & (data["side"] == side)], panel, looks)
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


def factors_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """A column per factor: its standard deviation over steps above, its part in the tail below."""
    present = [factor for factor in FACTORS if (data["factor"] == factor).any()]
    quantities = {
        "std": "standard deviation of\nthe log ratio, nats",
        "tail_share": "share of the log ratio\nin the largest 1 % of tokens",
    }
    rows = [name for name in quantities if (data["quantity"] == name).any()]
    figure = Figure(figsize=(3.7 * len(present) + 0.4, 2.8 * len(rows) + 0.5))
    grid = figure.subplots(len(rows), len(present), sharey="row", sharex=True, squeeze=False)
    for name, panels in zip(rows, grid):
        for factor, panel in zip(present, panels):
            part = data[(data["quantity"] == name) & (data["factor"] == factor)]
            for arm, own in part.groupby("arm", sort=False):
                line(own, panel, looks, str(arm), y="value")
            if name == "std":
                panel.set_title(factor)
            else:
                panel.axhline(0, color=SOFT, lw=0.7)
        panels[0].set_ylabel(quantities[name])
        span_lines(panels[0], data[data["quantity"] == name]["value"])
        if name == "std":
            panels[0].set_ylim(bottom=max(panels[0].get_ylim()[0], 0.0))
    for panel in grid[-1]:
        panel.set_xlabel("step")
    legend_below(figure, grid.ravel(), looks)
    return figure
