"""The numbers that figures over steps draw: each frame here is a figure's CSV, and nothing else is drawn.

Not here: tails from the records (`plotted_tails`), one point per cell (`plotted_cells`).
"""

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from alpkit.analysis.frames import FINISHED, GridFrame
from alpkit.analysis.reading.evaluations import pass_curves
from alpkit.analysis.seeds.scores import last_evaluations
from alpkit.analysis.spikes import spike_log

DYNAMICS: Final = {
    "reward/mean": "Reward, mean of the step",
    "eval/greedy": "Greedy accuracy, held out",
    "train/entropy": "Entropy of π, nats",
    "train/grad_norm": "Gradient norm before clipping",
    "kl/k1": "K1 of π against µ, nats",
    "kl/k3": "K3 of π against µ, nats",
}
FACTORS: Final = ("mismatch", "staleness", "perturbation")
POINTS: Final = 200
"""Points of a line over steps; longer runs are averaged over windows of equal length first."""
FINISHED_SERIES, SPIKE_SERIES = "finished", "spike"
_LINE: Final = ["metric", "arm", "series", "step", "mean", "low", "high", "n", "interval"]


def window(frame: GridFrame) -> int:
    """Steps that one point of a line averages over: 1 up to `POINTS` steps."""
    last = frame.steps["step"].max() if len(frame.steps) else 0
    return max(1, math.ceil(last / POINTS))


def over_steps(frame: GridFrame, keys: Iterable[str]) -> pd.DataFrame:
    """metric, arm, series, step, mean, low, high, n, interval: finished seeds together, other cells alone.

    series `finished`: mean over the arm's finished seeds, with their 95 % t interval from three seeds
    on (interval `t`) and their range below (`range`); any other series is the one unfinished cell that
    it names, as far as it came. A step stands for the `window` of steps that ends there.
    """
    state = frame.cells.set_index("cell_id")["state"]
    width = window(frame)
    parts = []
    for metric in keys:
        if metric not in frame.steps.columns:
            continue
        values = frame.steps[["cell_id", "arm", "step", metric]].dropna()
        values = values.assign(step=np.ceil(values["step"] / width).astype(int) * width)
        whole = values["cell_id"].map(state) == FINISHED
        values = values.assign(series=values["cell_id"].where(~whole, FINISHED_SERIES))
        cells = values.groupby(["arm", "series", "cell_id", "step"], sort=False)[metric].mean()
        grouped = cells.groupby(["arm", "series", "step"], sort=False)
        part = grouped.agg(["mean", "std", "min", "max", "count"]).reset_index()
        parts.append(_with_interval(part).assign(metric=metric))
    if not parts:
        return pd.DataFrame(columns=_LINE)
    data = pd.concat(parts)[_LINE]
    order = {arm: i for i, arm in enumerate(frame.arms)}
    return data.sort_values(
        ["metric", "arm", "series", "step"], key=lambda c: c.map(order) if c.name == "arm" else c
    ).reset_index(drop=True)


def _with_interval(part: pd.DataFrame) -> pd.DataFrame:
    n = part["count"]
    margin = stats.t.ppf(0.975, np.maximum(n - 1, 1)) * part["std"] / np.sqrt(n)
    tested = n >= 3
    return part.assign(
        n=n,
        low=(part["mean"] - margin).where(tested, part["min"]),
        high=(part["mean"] + margin).where(tested, part["max"]),
        interval=np.where(tested, "t", "range"),
    )


def dynamics_frame(frame: GridFrame) -> pd.DataFrame:
    """`over_steps` of reward, accuracy, entropy, gradient norm, K1, K3; series `spike`: one cell's spike."""
    lines = over_steps(frame, DYNAMICS)
    spikes = spike_log(frame).rows
    spikes = spikes[spikes["metric"].isin(DYNAMICS)]
    marks = spikes[["metric", "arm", "step"]].assign(series=SPIKE_SERIES, n=1, interval="range")
    marks = marks.assign(mean=spikes["value"], low=spikes["value"], high=spikes["value"])
    return pd.concat([lines, marks[_LINE]], ignore_index=True) if len(marks) else lines


def sigma_frame(frame: GridFrame) -> pd.DataFrame:
    """arm, layer, step, sigma: noise scale of each perturbed layer, mean over finished seeds."""
    prefix = "sigma/layer_"
    keys = [key for key in frame.steps.columns if key.startswith(prefix)]
    lines = over_steps(frame, keys)
    lines = lines[(lines["series"] == FINISHED_SERIES) & (lines["step"] > 0)]
    data = lines.assign(layer=lines["metric"].str.removeprefix(prefix).astype(int))
    data = data.rename(columns={"mean": "sigma"})[["arm", "layer", "step", "sigma", "n"]]
    return data.reset_index(drop=True)


def removed_frame(frame: GridFrame) -> pd.DataFrame:
    """`over_steps` of what the correction took: receipt/weight_removed, and shares of tokens by kind.

    Keys that are 0 at every step of every arm are left out: the receipt table holds them.
    """
    keys = [f"receipt/{name}" for name in REMOVED]
    lines = over_steps(frame, keys)
    lines = lines[lines["series"] == FINISHED_SERIES]
    acted = lines.groupby("metric")["mean"].transform("max") > 0
    return lines[acted].reset_index(drop=True)


REMOVED: Final = {
    "weight_removed": "importance weight removed",
    "truncated": "tokens truncated",
    "raised": "tokens raised",
    "masked": "tokens masked",
    "rejected": "tokens rejected",
    "clipped_low": "tokens clipped low",
    "clipped_high": "tokens clipped high",
    "dual_clipped": "tokens dual-clipped",
}


def pass_frame(frame: GridFrame) -> pd.DataFrame:
    """arm, k, when, step, mean, low, high, n, interval: pass@k on held-out items.

    Every k up to the samples where the cells kept how often each item was solved; else k = 1 (avg@k, its
    unbiased estimate from the same samples) and k. when `step`: the evaluation of that step; `last`: each
    cell's last evaluations (`seeds.scores`). Intervals over seeds as in `over_steps`.
    """
    curves = pass_curves(frame.grid.folder, frame.finished)
    if not curves.empty:
        return _every_k(curves, frame)
    known = frame.finished["eval_k"].dropna()
    if known.nunique() != 1:  # arms that were evaluated at different k are not one figure
        return pd.DataFrame(columns=["arm", "k", "when", "step", "mean"])
    keys = {"eval/avg_at_k": 1, "eval/pass_at_k": int(known.iloc[0])}
    lines = over_steps(frame, keys)
    lines = lines[lines["series"] == FINISHED_SERIES]
    lines = lines.assign(when="step", k=lines["metric"].map(keys))
    parts = [lines.drop(columns=["metric", "series"])]
    by_cell = dict(iter(frame.steps.groupby("cell_id")))
    for key, k in keys.items():
        if key in frame.steps.columns:
            ends = [
                (arm, last_evaluations(own.set_index("step")[key], int(own["step"].max())))
                for arm, cell in zip(frame.finished["arm"], frame.finished["cell_id"])
                if (own := by_cell.get(cell)) is not None
            ]
            last = summarise(
                pd.DataFrame(ends, columns=["arm", "value"]).dropna(), ["arm"], "value"
            )
            parts.append(last.assign(k=k, when="last"))
    columns = ["arm", "k", "when", "step", "mean", "low", "high", "n", "interval"]
    return pd.concat(parts, ignore_index=True)[columns]


def _every_k(curves: pd.DataFrame, frame: GridFrame) -> pd.DataFrame:
    by_step = summarise(curves, ["arm", "k", "step"], "value").assign(when="step")
    last_step = {str(cell): int(own.max()) for cell, own in frame.steps.groupby("cell_id")["step"]}
    ends = [
        (arm, k, last_evaluations(own.set_index("step")["value"], last_step[str(cell)]))
        for (cell, arm, k), own in curves.groupby(["cell_id", "arm", "k"], sort=False)
    ]
    ending = pd.DataFrame(ends, columns=["arm", "k", "value"]).dropna()
    last = summarise(ending, ["arm", "k"], "value").assign(when="last")
    columns = ["arm", "k", "when", "step", "mean", "low", "high", "n", "interval"]
    return pd.concat([by_step, last], ignore_index=True)[columns]


def summarise(data: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Mean, low, high, n and interval of `column` per group, as in `over_steps`; groups keep their order."""
    grouped = data.groupby(by, sort=False)[column]
    part = _with_interval(grouped.agg(["mean", "std", "min", "max", "count"]).reset_index())
    return part[[*by, "mean", "low", "high", "n", "interval"]]
