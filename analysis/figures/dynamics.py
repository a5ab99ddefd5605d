"""Training dynamics: reward, accuracy, entropy, gradient norm, K1 and K3 over steps."""

from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alpkit.analysis.figures.over_steps import FINISHED_SERIES, SEEDS, over_steps, smoothed
from alpkit.analysis.figures.panels import (
    Looks,
    legend_below,
    line,
    log_ticks,
    of_arm,
    smoothed_line,
    span_lines,
)
from alpkit.analysis.figures.spec import ReportFigure, range_text
from alpkit.analysis.frames import GridFrame

DYNAMICS: Final = {
    "reward/mean": "Reward, mean of the step",
    "eval/greedy": "Greedy accuracy, held out",
    "train/entropy": "Entropy of π, nats",
    "train/grad_norm": "Gradient norm before clipping",
    "kl/k1": "K1 of π against µ, nats",
    "kl/k3": "K3 of π against µ, nats",
}
LOGARITHMIC: Final = ("kl/k3", "train/grad_norm")
SMOOTHED: Final = ("kl/k1", "kl/k3", "train/grad_norm")
SPIKE_SERIES: Final = "spike"


def numbers(frame: GridFrame) -> pd.DataFrame:
    """`over_steps` of reward, accuracy, entropy, gradient norm, K1, K3; series `spike`: one cell's spike.

    smooth: the mean over five points, which K1, K3 and the gradient norm are drawn by.
    """
    lines = smoothed(over_steps(frame, DYNAMICS))
    spikes = frame.spike_log.rows
    spikes = spikes[spikes["metric"].isin(DYNAMICS)]
    marks = spikes[["metric", "arm", "step"]].assign(series=SPIKE_SERIES, n=1, interval="range")
    marks = marks.assign(mean=spikes["value"], low=spikes["value"], high=spikes["value"])
    marks = marks.assign(smooth=spikes["value"])
    return pd.concat([lines, marks[lines.columns]], ignore_index=True) if len(marks) else lines


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Reward, accuracy, entropy, gradient norm, K1 and K3 over steps, as far as they were logged."""
    present = [key for key in DYNAMICS if (data["metric"] == key).any()]
    columns = min(len(present), 3)
    rows = -(-len(present) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.2, 3.0 * rows + 0.4))
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for key, panel in zip(present, panels):
        part = data[data["metric"] == key]
        draw_panel(part, panel, looks)
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


def draw_panel(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """One metric over steps: finished seeds' mean and interval; unfinished cells thin; crosses: spikes."""
    for (arm, series), part in data.groupby(["arm", "series"], sort=False):
        look = looks[str(arm)]
        if series == FINISHED_SERIES:
            draw = smoothed_line if part["metric"].iloc[0] in SMOOTHED else line
            draw(part, axes, looks, str(arm))
            continue
        with of_arm(axes, str(arm)):
            if series == SPIKE_SERIES:
                axes.plot(
                    part["step"], part["mean"], "x", color=look.colour, ms=7, mew=1.6, zorder=4
                )
            else:
                axes.plot(
                    part["step"], part["mean"], color=look.colour, lw=0.8, ls=(0, (4, 3)), alpha=0.8
                )
    axes.set_xlabel("step")
    return axes


def _log_span(values: "pd.Series[float]") -> tuple[float, float]:
    """Choose the axis' limits by the lines alone: a band that reaches 0 would take all of it."""
    return float(values.min()) / 1.6, float(values.max()) * 1.6


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say first and last accuracy, and the number of spikes."""
    ends = [
        f"{arm} {range_text(frame.finished.loc[frame.finished['arm'] == arm, 'eval_greedy'])}"
        for arm in frame.arms
    ]
    spikes = int((data["series"] == SPIKE_SERIES).sum())
    return (
        "Reward, greedy accuracy, entropy, gradient norm, K1 and K3 over steps, one line per arm. "
        f"Greedy accuracy at the end, lowest to highest seed: {'; '.join(ends)}. Spikes marked: {spikes}."
    )


FIGURE: Final = ReportFigure(
    name="dynamics",
    section="Results",
    title="Training dynamics",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        f"{SEEDS} Thin dashes: single cells that have not finished. Crosses: spikes of single cells. "
        "Gradient norm, K1 and K3 are smoothed over five points, the raw mean pale behind; gradient norm "
        "and K3 on logarithmic axes."
    ),
    absent="no cell has logged a step.",
)
