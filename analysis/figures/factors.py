"""Factors of the ratio: the width of mismatch, staleness and perturbation, and their part in the tail."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alpkit.analysis.figures.over_steps import FINISHED_SERIES, SEEDS, over_steps
from alpkit.analysis.figures.panels import SOFT, Looks, legend_below, line, of_arm, span_lines
from alpkit.analysis.figures.pools import joined
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading.folders import section

FACTORS: Final = ("mismatch", "staleness", "perturbation")


def numbers(frame: GridFrame) -> pd.DataFrame:
    """Give columns arm, quantity, factor, step, value, low, high, n, scheduled: each factor's width and tail part.

    scheduled: whether the step was recorded by its number, and not because it spiked.

    quantity `std`: standard deviation of the factor's token log ratio, nats, mean over finished seeds;
    `tail_share`: its mean share of the total log ratio over the 1 % largest tokens of a recorded step.
    """
    keys = {f"ratio/{factor}/token/std": factor for factor in FACTORS}
    lines = over_steps(frame, keys)
    lines = lines[lines["series"] == FINISHED_SERIES].rename(columns={"mean": "value"})
    lines = lines.assign(
        scheduled=True, quantity="std", factor=[keys[key] for key in lines["metric"]]
    )
    rows = [
        (
            arm,
            "tail_share",
            factor,
            item.step,
            share,
            np.nan,
            np.nan,
            item.found.n,
            _scheduled(frame, arm, item.step),
        )
        for arm in frame.arms
        for item in frame.pooled[arm].factors
        if item.level == "token"
        for factor, share in item.found.tail_share.items()
        if np.isfinite(share)
    ]
    columns = ["arm", "quantity", "factor", "step", "value", "low", "high", "n", "scheduled"]
    return joined([lines, pd.DataFrame(rows, columns=columns)], columns)


def _scheduled(frame: GridFrame, arm: str, step: int) -> bool:
    """Whether the arm's `records.every` asks for this step: multiples, the first and the last."""
    config = frame.arm_configs.get(arm, {})
    every = section(config, "records").get("every")
    spacing = every if isinstance(every, int) and every else 1
    return step % spacing == 0 or step in (1, section(config, "train").get("steps"))


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Lay out a column per factor: its standard deviation over steps above, its part in the tail below."""
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
                planned = own[own["scheduled"].astype(bool)]
                line(planned, panel, looks, str(arm), y="value")
                # A step that was recorded because it spiked is no point of the line.
                spikes = own[~own["scheduled"].astype(bool)]
                with of_arm(panel, str(arm)):
                    panel.plot(spikes["step"], spikes["value"], "x", color=looks[str(arm)].colour)
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


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say the mean width of every factor and arm."""
    std = data[data["quantity"] == "std"]
    means = std.groupby(["factor", "arm"], sort=False)["value"].mean().reset_index()
    parts = [f"{row.factor} of {row.arm} {row.value:.3f}" for row in means.itertuples()]
    return (
        "Standard deviation of the log ratio's factors over steps, and their share in its tail. Mean over "
        f"steps, nats: {'; '.join(parts)}."
    )


FIGURE: Final = ReportFigure(
    name="factors",
    section="The ratio",
    title="What the ratio is made of",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        f"Mismatch π_old/µ, staleness π_θ/π_old, perturbation π_θ,δ/π_θ (arms with noise). Above: width of "
        f"each factor's token log ratio. Below: its mean share of the total log ratio over the 1 % "
        f"largest tokens of up to 12 recorded steps, seeds pooled; shares of an arm add to 1. "
        f"Crosses: steps recorded because they spiked. {SEEDS}"
    ),
    absent="no finished cell logged the ratio's factors.",
)
