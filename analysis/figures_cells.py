"""Figures with a point per arm or cell, and of what noise and correction did: ablations, pass@k, σ, receipts.

Functions `(data, axes, looks) -> axes` and the sheets made of them; every number drawn is in `data`.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from alpkit.analysis.panels import (
    SOFT,
    Looks,
    arm_handles,
    legend_below,
    line,
    log_ticks,
    span_lines,
)
from alpkit.analysis.plotted import REMOVED
from alpkit.analysis.plotted_cells import ENDPOINTS

HEAVINESS_LABELS = {
    "khat_right": "k̂ of the token ratio, mean of the run",
    "width": "P98 − P2 of the token log ratio, nats",
    "k3_mean": "K3, mean of the run, nats",
}
SCORE_LABELS = {"eval_greedy": "greedy accuracy at the end", "final_reward": "reward at the end"}


def intervals(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """One endpoint: a row per arm, its mean and interval; the controls' as a shaded column."""
    for place, row in enumerate(data.to_dict("records")):
        look = looks[row["arm"]]
        axes.plot([row["low"], row["high"]], [place, place], color=look.colour, lw=2)
        axes.plot(row["mean"], place, look.marker or "o", color=look.colour, ms=6)
        if row["setting"] == "no noise":
            axes.axvspan(row["low"], row["high"], color=SOFT, alpha=0.12, lw=0)
    axes.set_ylim(len(data) - 0.5, -0.5)
    return axes


def ablation_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """A row of panels per group of arms, a panel per endpoint, a line per setting."""
    groups = list(dict.fromkeys(data["group"]))
    endpoints = [name for name in ENDPOINTS if (data["endpoint"] == name).any()]
    heights = [data[data["group"] == group]["arm"].nunique() for group in groups]
    figure = Figure(figsize=(2.3 * len(endpoints) + 1.6, 0.34 * sum(heights) + 0.9 * len(groups)))
    grid = figure.subplots(
        len(groups), len(endpoints), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for group, panels in zip(groups, grid):
        for name, panel in zip(endpoints, panels):
            part = data[(data["group"] == group) & (data["endpoint"] == name)]
            intervals(part, panel, looks)
            panel.set_yticks(range(len(part)), part["setting"] if panel is panels[0] else [])
            panel.xaxis.set_major_locator(MaxNLocator(4))
            panel.grid(axis="y", visible=False)
            if group == groups[0]:
                panel.set_title(ENDPOINTS[name], fontsize=9)
    return figure


def score(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """Score against heaviness, a point per cell."""
    for arm, part in data.groupby("arm", sort=False):
        look = looks[str(arm)]
        axes.plot(part["x"], part["y"], look.marker or "o", color=look.colour, ms=5.5, alpha=0.85)
    return axes


def score_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """A panel per measure of heaviness, the same score on every y axis."""
    names = list(dict.fromkeys(data["heaviness"]))
    figure = Figure(figsize=(3.6 * len(names) + 0.4, 3.7))
    grid = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for name, panel in zip(names, grid):
        part = data[data["heaviness"] == name]
        score(part, panel, looks)
        panel.set_xlabel(HEAVINESS_LABELS[name])
        rho, n = part["rho"].iloc[0], part["n"].iloc[0]
        known = f"Spearman ρ = {rho:+.2f}, " if np.isfinite(rho) else ""
        panel.set_title(f"{known}{n} cells", fontsize=9, fontweight="normal")
        if name == "k3_mean" and (part["x"] > 0).all() and part["x"].max() > 5 * part["x"].min():
            panel.set_xscale("log")
            log_ticks(panel.xaxis)
    grid[0].set_ylabel(SCORE_LABELS[data["score"].iloc[0]])
    handles = arm_handles(dict.fromkeys(data["arm"]), looks)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
    return figure


def pass_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """pass@1 and pass@k over steps, and both at the end of training, over k."""
    ks = sorted(data["k"].unique())
    figure = Figure(figsize=(3.6 * (len(ks) + 1), 3.7))
    panels = figure.subplots(1, len(ks) + 1, sharey=True)
    for k, panel in zip(ks, panels):
        part = data[(data["k"] == k) & (data["when"] == "step")]
        for arm, own in part.groupby("arm", sort=False):
            line(own, panel, looks, str(arm))
        panel.set_title(f"pass@{k}")
        panel.set_xlabel("step")
    pass_at_k(data[data["when"] == "last"], panels[-1], looks)
    panels[-1].set_title("last evaluations")
    panels[0].set_ylabel("share of items solved")
    span_lines(panels[0], data["mean"])
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(max(low, -0.02), min(high, 1.02))
    legend_below(figure, panels[:1], looks)
    return figure


def pass_at_k(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """Share of items that one of k samples solves, over k, with the interval over seeds."""
    ks = sorted(data["k"].unique())
    arms = list(dict.fromkeys(data["arm"]))
    for place, arm in enumerate(arms):
        look, part = looks[arm], data[data["arm"] == arm].sort_values("k")
        # On a log axis a factor sets the arms side by side.
        x = part["k"] * 1.07 ** (place - (len(arms) - 1) / 2)
        axes.plot(x, part["mean"], color=look.colour, ls=look.line, lw=1.2)
        errors = [part["mean"] - part["low"], part["high"] - part["mean"]]
        axes.errorbar(x, part["mean"], errors, fmt=look.marker or "o", color=look.colour, ms=4.5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlabel("k")
    return axes


def sigma(data: pd.DataFrame, axes: Axes, *, low: float, high: float) -> Any:
    """Heat map of one arm's σ over steps and layers; returns what a colour bar is made from."""
    table = data.pivot_table(index="layer", columns="step", values="sigma")
    return axes.pcolormesh(
        table.columns, table.index, table.to_numpy(), vmin=low, vmax=high, cmap="cividis",
        shading="nearest", rasterized=True,
    )  # fmt: skip


def sigma_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """A panel per perturbed arm, all on one colour scale."""
    arms = list(dict.fromkeys(data["arm"]))
    columns = min(len(arms), 3)
    rows = -(-len(arms) // columns)
    figure = Figure(figsize=(3.9 * columns + 1.2, 2.7 * rows + 0.3))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    low, high = float(data["sigma"].min()), float(data["sigma"].max())
    if (
        high - low < 1e-3 * high
    ):  # σ that nothing trains: a scale of rounding errors would show a pattern
        low, high = 0.0, 2 * high
    for arm, panel in zip(arms, grid):
        mesh = sigma(data[data["arm"] == arm], panel, low=low, high=high)
        panel.set_title(arm, color=looks[arm].colour)
        panel.set(xlabel="step", ylabel="layer")
        panel.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.grid(visible=False)
    for panel in grid[len(arms) :]:
        panel.set_visible(False)
    figure.colorbar(
        mesh, ax=list(grid[: len(arms)]), label="σ", aspect=12 * rows, fraction=0.03, pad=0.01
    )
    return figure


def removed_sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """A panel per kind of removal that acted in some arm, shares over steps."""
    names = [name for name in REMOVED if (data["metric"] == f"receipt/{name}").any()]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.7 * columns + 0.4, 2.9 * rows + 0.5))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for name, panel in zip(names, grid):
        part = data[data["metric"] == f"receipt/{name}"]
        for arm, own in part.groupby("arm", sort=False):
            line(own, panel, looks, str(arm))
        panel.set_title(REMOVED[name])
        panel.set_ylim(bottom=0)
        panel.set_xlabel("step")
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    for panel in grid[len(names) :]:
        panel.set_visible(False)
    legend_below(figure, grid, looks)
    return figure
