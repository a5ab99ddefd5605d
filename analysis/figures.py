"""Figures as functions `(data, axes, looks) -> axes`, and the sheets of the report.

Every function draws exactly the numbers in `data` (that frame is the figure's CSV) and returns the axes.
Nothing here computes a statistic: see `analysis.plotted`.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from analysis.items import ROUNDOFF
from analysis.plotted import DYNAMICS, FINISHED_SERIES, SPIKE_SERIES
from analysis.plotted_tails import DRAWN as LEVELS
from analysis.pooled import SIDES
from analysis.style import Look

Looks = dict[str, Look]

PER_ROW = 6
SHORT = {"token": "token level", "product": "response level (product)"}


def dynamics(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """One metric over steps: mean and range of finished seeds; unfinished cells as thin lines."""
    for (arm, series), part in data.groupby(["arm", "series"], sort=False):
        look = looks[arm]
        if series == SPIKE_SERIES:
            axes.plot(part["step"], part["mean"], "x", color=look.colour, ms=6, mew=1.4, zorder=4)
            continue
        if series != FINISHED_SERIES:
            axes.plot(
                part["step"], part["mean"], color=look.colour, lw=0.8, ls=(0, (4, 3)), alpha=0.8
            )
            continue
        sparse = len(part) <= 15
        axes.plot(
            part["step"],
            part["mean"],
            color=look.colour,
            ls=look.line,
            marker=look.marker or ("." if sparse else None),
            markevery=1 if sparse else max(len(part) // 8, 1),
            label=arm,
        )
        if (part["n"] > 1).any():
            axes.fill_between(
                part["step"], part["low"], part["high"], color=look.colour, alpha=0.14, lw=0
            )
    axes.set_xlabel("step")
    return axes


def envelope(data: pd.DataFrame, axes: Axes, look: Look) -> Axes:
    """P2-P98 and median of the log ratio against log µ; dashes: with the noise on."""
    raw = data[data["ratio"] == "raw"]
    axes.fill_between(raw["log_mu"], raw["p02"], raw["p98"], color=look.colour, alpha=0.35, lw=0)
    axes.plot(raw["log_mu"], raw["p50"], color=look.colour, lw=1.5)
    noisy = data[data["ratio"] == "perturbed"]
    for edge in ("p02", "p98"):
        axes.plot(noisy["log_mu"], noisy[edge], color="#1c2127", lw=0.9, ls=(0, (3, 2)))
    axes.axhline(0, color="#5a5f66", lw=0.7)
    return axes


def ccdf(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """P(ratio > z) on log-log axes per arm, with the band of the bootstrap over prompts, over the floor."""
    for arm, part in data[~data["arm"].isin(ROUNDOFF)].groupby("arm", sort=False):
        look = looks[arm]
        axes.plot(part["z"], part["p"], color=look.colour, ls=look.line, label=arm)
        axes.fill_between(part["z"], part["low"], part["high"], color=look.colour, alpha=0.14, lw=0)
    for dtype, line in zip(ROUNDOFF, ((0, (1, 1)), (0, (4, 1.5)))):
        floor = data[data["arm"] == dtype]
        axes.plot(
            floor["z"], floor["p"], color="#5a5f66", lw=1, ls=line, label=f"rounding, {dtype}"
        )
    axes.set(xscale="log", yscale="log")
    return axes


def dynamics_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Reward, accuracy, entropy, gradient norm, K1 and K3 over steps; crosses: K3 spikes of single cells."""
    figure = Figure(figsize=(11, 6.4))
    panels = figure.subplots(2, 3).ravel()
    for panel, (key, title) in zip(panels, DYNAMICS.items()):
        dynamics(data[data["metric"] == key], panel, looks)
        panel.set_title(title)
    if (data["metric"] == "kl/k3").any():
        panels[-1].set_yscale("log")
    for panel in panels[:3]:
        panel.set_xlabel("")
    _legend(figure, panels)
    return figure


def envelope_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """A column per arm, token level above product level, all panels of a row on the same axes."""
    arms = list(dict.fromkeys(data["arm"]))
    blocks = [arms[i : i + PER_ROW] for i in range(0, len(arms), PER_ROW)]
    width = max(len(block) for block in blocks)
    rows = [(level, block) for level in LEVELS for block in blocks]
    figure = Figure(figsize=(2.05 * width + 0.7, 2.35 * len(rows) + 0.3))
    grid = figure.subplots(len(rows), width, squeeze=False)
    for (level, block), line in zip(rows, grid):
        same_level = data[data["level"] == level]
        for panel, arm in zip(line, block):
            envelope(same_level[same_level["arm"] == arm], panel, looks[arm])
            panel.set_title(arm, color=looks[arm].colour)
            panel.set_xlim(*_span(same_level["log_mu"]))
            panel.set_ylim(*_span(same_level[["p02", "p98"]].stack()))
            panel.tick_params(labelleft=panel is line[0])
        for panel in line[len(block) :]:
            panel.set_visible(False)
        line[0].set_ylabel(f"{SHORT[level]}\nlog ratio, nats")
        place = "log µ of the token" if level == "token" else "mean log µ of the response"
        for panel in line[: len(block)]:
            panel.set_xlabel(place, fontsize=8)
            panel.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def ccdf_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """The ratio and its inverse, at token and at product level."""
    figure = Figure(figsize=(10, 7.2))
    grid = figure.subplots(len(LEVELS), len(SIDES), sharey="row", squeeze=False)
    names = {"right": ("ratio", "z"), "left": ("1 / ratio", "z")}
    for level, line in zip(LEVELS, grid):
        for side, panel in zip(SIDES, line):
            part = data[(data["level"] == level) & (data["side"] == side)]
            ccdf(part, panel, looks)
            name = names[side][0]
            panel.set_title(f"{name}, {SHORT[level]}")
            panel.set_xlabel("z")
            _few_ticks(panel.xaxis)
        line[0].set_ylabel("share of items above z")
    _legend(figure, grid.ravel())
    return figure


def _legend(figure, panels):
    handles = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    if handles:
        columns = min(len(handles), 6)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)


def _span(values):
    low, high = values.min(), values.max()
    pad = 0.04 * (high - low) or 0.1
    return low - pad, high + pad


def _few_ticks(axis):
    axis.set_major_locator(LogLocator(numticks=8))
    axis.set_minor_formatter(NullFormatter())
