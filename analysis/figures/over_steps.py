"""Lines over steps: an arm's finished seeds together with their interval, other cells alone.

The numbers of every figure that has steps on its axis; the tails of the records are in
`alpkit.analysis.figures.pools`.
"""

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.seeds.scores import FINISHED

POINTS: Final = 200
"""Points of a line over steps; longer runs are averaged over windows of equal length first."""
SMOOTH: Final = 5
"""Points that a smoothed line averages over."""
FINISHED_SERIES: Final = "finished"
COLUMNS: Final = ["metric", "arm", "series", "step", "mean", "low", "high", "n", "interval"]
SEEDS: Final = (
    "Lines: mean over finished seeds; bands and bars: their 95 % t interval from three seeds on, their "
    "range below. Runs of more than 200 steps are averaged over windows first."
)


def window(frame: GridFrame) -> int:
    """Count the steps that one point of a line averages over: 1 for runs of up to `POINTS` steps."""
    last = frame.steps["step"].max() if len(frame.steps) else 0
    return max(1, math.ceil(last / POINTS))


def over_steps(frame: GridFrame, keys: Iterable[str]) -> pd.DataFrame:
    """Give columns metric, arm, series, step, mean, low, high, n, interval: finished seeds together, other cells alone.

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
        return pd.DataFrame(columns=COLUMNS)
    data = pd.concat(parts)[COLUMNS]
    order = {arm: i for i, arm in enumerate(frame.arms)}
    return data.sort_values(
        ["metric", "arm", "series", "step"], key=lambda c: c.map(order) if c.name == "arm" else c
    ).reset_index(drop=True)


def smoothed(lines: pd.DataFrame) -> pd.DataFrame:
    """`lines` with a column `smooth`: each line's mean over `SMOOTH` points; of few points the mean itself."""

    def smooth(values: "pd.Series[float]") -> "pd.Series[float]":
        enough = len(values) >= 3 * SMOOTH
        return values.rolling(SMOOTH if enough else 1, center=True, min_periods=1).mean()

    grouped = lines.groupby(["metric", "arm", "series"], sort=False)["mean"]
    return lines.assign(smooth=grouped.transform(smooth) if len(lines) else lines["mean"])


def summarise(data: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Compute mean, low, high, n and interval of `column` per group, as in `over_steps`; groups keep their order."""
    grouped = data.groupby(by, sort=False)[column]
    part = _with_interval(grouped.agg(["mean", "std", "min", "max", "count"]).reset_index())
    return part[[*by, "mean", "low", "high", "n", "interval"]]


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
