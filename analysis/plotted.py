"""The numbers that figures draw: each frame here is a figure's CSV, and nothing else is drawn."""

from typing import Final

import numpy as np
import pandas as pd

from alpkit.diagnostics import ccdf, envelope
from alpkit.diagnostics.tails import Side
from analysis.frames import FINISHED, GridFrame
from analysis.tails import LEVELS, SIDES, ratios

DYNAMICS: Final = {
    "reward/mean": "Reward, mean of the step",
    "eval/greedy": "Greedy accuracy, held out",
    "train/grad_norm": "Gradient norm before clipping",
    "kl/k3": "K3 of π against µ, nats",
}
BINS: Final = 50
PER_BIN: Final = 200  # so that P2 rests on four items at least
POINTS: Final = 60
RESAMPLES: Final = 200


def dynamics_frame(frame: GridFrame) -> pd.DataFrame:
    """metric, arm, series, step, mean, low, high, n.

    series `finished`: mean and range over the arm's finished seeds; any other series is the one
    unfinished cell that it names, as far as it came.
    """
    state = frame.cells.set_index("cell_id")["state"]
    rows = []
    for metric in DYNAMICS:
        if metric not in frame.steps.columns:
            continue
        values = frame.steps[["cell_id", "arm", "step", metric]].dropna()
        whole = values["cell_id"].map(state) == FINISHED
        values = values.assign(series=values["cell_id"].where(~whole, "finished"))
        grouped = values.groupby(["arm", "series", "step"], sort=False)[metric]
        part = grouped.agg(mean="mean", low="min", high="max", n="count").reset_index()
        rows.append(part.assign(metric=metric))
    columns = ["metric", "arm", "series", "step", "mean", "low", "high", "n"]
    if not rows:
        return pd.DataFrame(columns=columns)
    data = pd.concat(rows)[columns]
    order = {arm: i for i, arm in enumerate(frame.arms)}
    return data.sort_values(
        ["metric", "arm", "series", "step"], key=lambda c: c.map(order) if c.name == "arm" else c
    ).reset_index(drop=True)


def envelope_frame(frame: GridFrame) -> pd.DataFrame:
    """arm, level, ratio, log_mu, n, p02, p50, p98: equal-count bins of log mu (spec alp.md D.2).

    ratio `raw` is unperturbed pi over mu; `perturbed`, for arms with noise, has the noise on.
    """
    parts = []
    for arm in frame.arms:
        noisy = frame.cells.loc[frame.cells["arm"] == arm, "site"].notna().any()
        for ratio in ("raw", "perturbed") if noisy else ("raw",):
            for level, data in ratios(frame, arm, perturbed=ratio == "perturbed").items():
                if len(data):
                    parts.append(_bins(data).assign(arm=arm, level=level, ratio=ratio))
    columns = ["arm", "level", "ratio", "log_mu", "n", "p02", "p50", "p98"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _bins(data: pd.DataFrame) -> pd.DataFrame:
    bins = max(1, min(BINS, len(data) // PER_BIN))
    found = envelope(data["log_mu"].to_numpy(float), data["log_ratio"].to_numpy(float), bins=bins)
    return pd.DataFrame(
        {
            "log_mu": found.centre,
            "n": found.items,
            "p02": found.low,
            "p50": found.median,
            "p98": found.high,
        }
    )


def ccdf_frame(frame: GridFrame) -> pd.DataFrame:
    """arm, level, side, z, p, low, high: share of ratios (left: inverses) above z >= 1.

    low and high: 90 % bootstrap over prompts; a resample without any ratio above z counts as 0.
    """
    parts = []
    for arm in frame.arms:
        for level, data in ratios(frame, arm).items():
            for side in SIDES if len(data) else ():
                parts.append(_ccdf(data, side).assign(arm=arm, level=level, side=side))
    columns = ["arm", "level", "side", "z", "p", "low", "high"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _ccdf(data: pd.DataFrame, side: Side) -> pd.DataFrame:
    log_ratio = data["log_ratio"].to_numpy(float)
    outer = float((log_ratio if side == "right" else -log_ratio).max())
    # The grid stops short of the largest item: a share of 0 has no place on a logarithmic axis.
    grid = np.linspace(0.0, max(outer, 1e-6), POINTS, endpoint=False)
    found = ccdf(
        log_ratio,
        side=side,
        cluster=data["cluster"].to_numpy(int),
        log_size=grid,
        n_boot=RESAMPLES,
    )
    return pd.DataFrame(
        {"z": np.exp(found.log_size), "p": found.survival, "low": found.low, "high": found.high}
    )


__all__ = ["DYNAMICS", "LEVELS", "SIDES", "ccdf_frame", "dynamics_frame", "envelope_frame"]
