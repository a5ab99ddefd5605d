"""Figures as functions `(data, axes, looks) -> axes`, and the sheets of the report: dynamics, envelope, CCDF.

Every function draws exactly the numbers in `data` (that frame is the figure's CSV) and returns the axes.
Nothing here computes a statistic: see `alpkit.analysis.plotted` and its neighbours. Other tails are in
`alpkit.analysis.figures_tails`, points per cell in `alpkit.analysis.figures_cells`.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
    padded,
    span_lines,
)
from alpkit.analysis.plotted import DYNAMICS, FINISHED_SERIES, SPIKE_SERIES
from alpkit.analysis.plotted_tails import DRAWN
from alpkit.analysis.reading.items import ROUNDOFF
from alpkit.analysis.reading.pooled import SIDES
from alpkit.analysis.style import Look

LOGARITHMIC = ("kl/k3", "train/grad_norm")


def dynamics(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """One metric over steps: finished seeds' mean and interval; unfinished cells thin; crosses: spikes."""
    for (arm, series), part in data.groupby(["arm", "series"], sort=False):
        look = looks[arm]
        if series == FINISHED_SERIES:
            line(part, axes, looks, arm)
        elif series == SPIKE_SERIES:
            axes.plot(part["step"], part["mean"], "x", color=look.colour, ms=7, mew=1.6, zorder=4)
        else:
            axes.plot(
                part["step"], part["mean"], color=look.colour, lw=0.8, ls=(0, (4, 3)), alpha=0.8
            )
    axes.set_xlabel("step")
    return axes


def dynamics_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Reward, accuracy, entropy, gradient norm, K1 and K3 over steps, as far as they were logged."""
    present = [key for key in DYNAMICS if (data["metric"] == key).any()]
    columns = min(len(present), 3)
    rows = -(-len(present) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.2, 3.0 * rows + 0.4))
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for key, panel in zip(present, panels):
        part = data[data["metric"] == key]
        dynamics(part, panel, looks)
        panel.set_title(DYNAMICS[key])
        panel.tick_params(labelbottom=True)
        if key in LOGARITHMIC and (part["mean"] > 0).all():
            panel.set_yscale("log")
            panel.set_ylim(*_log_span(part["mean"]))
            log_ticks(panel.yaxis)
        else:
            span_lines(panel, part["mean"])
    for panel in panels[len(present) :]:
        panel.set_visible(False)
    legend_below(figure, panels, looks)
    return figure


def envelope(data: pd.DataFrame, axes: Axes, look: Look) -> Axes:
    """P2-P98 and median of the log ratio against log µ; dashes: with the noise on."""
    raw = data[data["ratio"] == "raw"]
    axes.fill_between(raw["log_mu"], raw["p02"], raw["p98"], color=look.colour, alpha=0.35, lw=0)
    axes.plot(raw["log_mu"], raw["p50"], color=look.colour, lw=1.5)
    noisy = data[data["ratio"] == "perturbed"]
    for edge in ("p02", "p98"):
        axes.plot(noisy["log_mu"], noisy[edge], color=INK, lw=0.9, ls=(0, (3, 2)))
    axes.axhline(0, color=SOFT, lw=0.7)
    return axes


def envelope_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """A column per arm, token level above product level, all panels of a row on the same axes."""
    figure, panels = arm_grid(list(dict.fromkeys(data["arm"])), DRAWN, 2.35)
    for level, arm, panel, leftmost in panels:
        same_level = data[data["level"] == level]
        if len(same_level):
            envelope(same_level[same_level["arm"] == arm], panel, looks[arm])
            panel.set_xlim(*padded(same_level["log_mu"], 0.04))
            panel.set_ylim(*padded(same_level[["p02", "p98"]].stack(), 0.04))
        panel.set_title(arm, color=looks[arm].colour)
        panel.tick_params(labelleft=leftmost)
        if leftmost:
            panel.set_ylabel(f"{SHORT[level]}\nlog ratio, nats")
        place = "log µ of the token" if level == "token" else "mean log µ of the response"
        panel.set_xlabel(place, fontsize=8)
        panel.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def ccdf(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """P(ratio > z) on log-log axes per arm, with the band of the bootstrap over prompts, over the floor."""
    for arm, part in data[~data["arm"].isin(ROUNDOFF)].groupby("arm", sort=False):
        look = looks[arm]
        axes.plot(part["z"], part["p"], color=look.colour, ls=look.line, label=arm)
        axes.fill_between(part["z"], part["low"], part["high"], color=look.colour, alpha=0.14, lw=0)
    for dtype, dashes in zip(ROUNDOFF, ((0, (1, 1)), (0, (4, 1.5)))):
        floor = data[data["arm"] == dtype]
        label = f"floor: {dtype} rounding"
        axes.plot(floor["z"], floor["p"], color=INK, lw=1.1, ls=dashes, label=label)
    axes.set(xscale="log", yscale="log")
    return axes


def ccdf_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """The ratio and its inverse, at token and at product level."""
    figure = Figure(figsize=(10, 7.2))
    grid = figure.subplots(len(DRAWN), len(SIDES), sharey="row", squeeze=False)
    for level, row in zip(DRAWN, grid):
        for side, panel in zip(SIDES, row):
            part = data[(data["level"] == level) & (data["side"] == side)]
            ccdf(part, panel, looks)
            panel.set_title(f"{SIDE_NAMES[side]}, {SHORT[level]}")
            panel.set_xlabel("z")
            log_ticks(panel.xaxis)
            log_ticks(panel.yaxis)
        row[0].set_ylabel("share of items above z")
    legend_below(figure, grid.ravel(), looks)
    return figure


def _log_span(values: "pd.Series[float]") -> tuple[float, float]:
    """Limits that the lines decide: a band that reaches 0 would take the whole axis."""
    return float(values.min()) / 1.6, float(values.max()) * 1.6
