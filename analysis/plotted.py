"""The numbers that figures draw: each frame here is a figure's CSV, and nothing else is drawn."""

from typing import Final

import numpy as np
import pandas as pd

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
    # By rank, not by value: many tokens share log mu near 0, and bins must hold equal counts.
    count = max(1, min(BINS, len(data) // PER_BIN))
    ordered = data.sort_values("log_mu", kind="stable")
    label = np.arange(len(ordered)) * count // len(ordered)
    grouped = ordered.groupby(label)
    quantiles = grouped["log_ratio"].quantile(np.array([0.02, 0.5, 0.98])).unstack()
    return pd.DataFrame(
        {
            "log_mu": grouped["log_mu"].median(),
            "n": grouped.size(),
            "p02": quantiles[0.02],
            "p50": quantiles[0.5],
            "p98": quantiles[0.98],
        }
    )


def ccdf_frame(frame: GridFrame) -> pd.DataFrame:
    """arm, level, side, z, p, low, high: share of ratios (left: inverses) above z >= 1.

    low and high: 95 % bootstrap over prompts; a resample without any ratio above z counts as 0.
    """
    parts = []
    for arm in frame.arms:
        for level, data in ratios(frame, arm).items():
            for side in SIDES if len(data) else ():
                parts.append(_ccdf(data, side).assign(arm=arm, level=level, side=side))
    columns = ["arm", "level", "side", "z", "p", "low", "high"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _ccdf(data: pd.DataFrame, side: str) -> pd.DataFrame:
    outer = data["log_ratio"].to_numpy(float) * (1 if side == "right" else -1)
    grid = np.linspace(0.0, max(float(outer.max()), 1e-6), POINTS, endpoint=False)
    cluster = data["cluster"].to_numpy(int)
    clusters = int(cluster.max()) + 1
    # Row c, column g: how many items of cluster c lie above grid point g.
    level = np.searchsorted(grid, outer, side="left")
    counts = np.zeros((clusters, POINTS + 1))
    np.add.at(counts, (cluster, level), 1.0)
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    size = counts.sum(axis=1)
    weights = np.random.default_rng(0).multinomial(
        clusters, np.full(clusters, 1 / clusters), RESAMPLES
    )
    resampled = (weights @ above) / (weights @ size)[:, None]
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    p = above.sum(axis=0) / size.sum()
    return pd.DataFrame({"z": np.exp(grid), "p": p, "low": low, "high": high})


__all__ = ["DYNAMICS", "LEVELS", "SIDES", "ccdf_frame", "dynamics_frame", "envelope_frame"]
