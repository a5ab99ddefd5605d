"""The numbers that figures of the ratio's tails draw, from `GridFrame.pooled` and the step metrics."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.plotted import FACTORS, FINISHED_SERIES, over_steps
from alpkit.analysis.reading.items import ROUNDOFF
from alpkit.analysis.reading.pooled import SIDES, Pool
from alpkit.analysis.reading.reducers import EDGES
from alpkit.diagnostics import envelope, hill_curve, qq_exponential, tail_size

DRAWN: Final = ("token", "product")
"""Levels that figures show; the tables have all three."""
BINS: Final = 50
PER_BIN: Final = 200  # so that P2 rests on four items at least
HILL_POINTS: Final = 60
HILL_RESAMPLES: Final = 100
QQ_POINTS: Final = 120
_CCDF_SPAN: Final = 2.0**-9  # sizes below this share of the largest are one pixel on the axis


def pools(frame: GridFrame) -> Iterator[tuple[str, str, Pool]]:
    """Arm, level and pool of everything that figures show."""
    for arm in frame.arms:
        for level in DRAWN:
            if level in frame.pooled[arm].levels:
                yield arm, level, frame.pooled[arm].levels[level]


def envelope_frame(frame: GridFrame) -> pd.DataFrame:
    """arm, level, ratio, log_mu, n, p02, p50, p98: equal-count bins of log mu (spec alp.md D.2).

    ratio `raw` is unperturbed pi over mu; `perturbed`, for arms with noise, has the noise on. n counts
    the bin's items of the sample that the pool kept: all of them up to `pooled.SAMPLE`.
    """
    parts = []
    for arm, level, pool in pools(frame):
        log_mu, raw, perturbed = pool.sample.T
        ratios = {"raw": raw, "perturbed": perturbed}
        parts += [
            _bins(log_mu, values).assign(arm=arm, level=level, ratio=name)
            for name, values in ratios.items()
            if np.isfinite(values).any()
        ]
    return _joined(parts, ["arm", "level", "ratio", "log_mu", "n", "p02", "p50", "p98"])


def _bins(log_mu: np.ndarray, log_ratio: np.ndarray) -> pd.DataFrame:
    found = envelope(log_mu, log_ratio, bins=max(1, min(BINS, log_mu.size // PER_BIN)))
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
    """arm, level, side, z, p, low, high: share of ratios (left: inverses) above z > 1.

    low and high: 90 % bootstrap over prompts; a resample without any ratio above z counts as 0. Rows of
    arm `float32` and `bfloat16` are the numerical floor: what rounding the log-probs of the first arm
    alone would give (`items.unit_rounding`).
    """
    parts, floors = [], []
    for arm, level, pool in pools(frame):
        for side in SIDES:
            curve = pool.curve[side]
            largest = max(float(pool.top[side].values[0]), 0.0)
            # A share of 0 has no place on a logarithmic axis.
            seen = (curve.survival > 0) & (curve.log_size >= largest * _CCDF_SPAN)
            columns = {"p": curve.survival, "low": curve.low, "high": curve.high}
            part = pd.DataFrame({"z": curve.log_size, **columns})[seen]
            part["z"] = np.exp(part["z"])
            parts.append(part.assign(arm=arm, level=level, side=side))
            if arm == frame.arms[0]:
                floors += [
                    _floor(pool, unit).assign(arm=dtype, level=level, side=side)
                    for dtype, unit in ROUNDOFF.items()
                ]
    return _joined([*parts, *floors], ["arm", "level", "side", "z", "p", "low", "high"])


def _floor(pool: Pool, unit: float) -> pd.DataFrame:
    # The last three decades of a share: what lies below is the axis' own edge.
    seen = (pool.floor > 0) & (pool.floor < 0.999)
    z = np.exp(EDGES[seen] * unit)
    return pd.DataFrame({"z": z, "p": pool.floor[seen], "low": np.nan, "high": np.nan})


def hill_frame(frame: GridFrame) -> pd.DataFrame:
    """arm, level, side, k, hill, low, high, n_tail: Hill estimates over the number of largest items.

    k is log-spaced, as far as the pool's kept items and its resamples reach; low and high: 90 % bootstrap
    over prompts; n_tail is where k̂ and the table's Hill stand.
    """
    parts = []
    for arm, level, pool in pools(frame):
        for side in SIDES:
            top, cluster = pool.top[side]
            # A resample has more or fewer of the kept items than the data: half of them it always has.
            most = pool.n // 5 if top.size == pool.n else min(top.size // 2, pool.n // 5)
            if most < 10:
                continue
            ks = np.unique(np.geomspace(5, most, HILL_POINTS).astype(int))
            found = hill_curve(top, ks, cluster=cluster, n_boot=HILL_RESAMPLES)
            columns = {"hill": found.estimate, "low": found.low, "high": found.high}
            # Items below a ratio of 1 are no tail: an estimate that reaches down to them means nothing.
            part = pd.DataFrame({"k": ks, **columns})[top[ks] > 0]
            parts.append(part.assign(arm=arm, level=level, side=side, n_tail=tail_size(pool.n)))
    return _joined(parts, ["arm", "level", "side", "k", "hill", "low", "high", "n_tail"])


def khat_frame(frame: GridFrame) -> pd.DataFrame:
    """arm, level, side, source, step, khat, low, high, n: k̂ over steps.

    source `steps`: the mean over finished seeds of each step's own k̂ (low, high as in `over_steps`);
    `records`: k̂ of a recorded step's tokens pooled over seeds, with its 90 % bootstrap over prompts.
    """
    keys = {f"ratio/raw/{level}/khat_{side}": (level, side) for level in DRAWN for side in SIDES}
    lines = over_steps(frame, keys)
    lines = lines[lines["series"] == FINISHED_SERIES].rename(columns={"mean": "khat"})
    place = [keys[key] for key in lines["metric"]]
    lines = lines.assign(
        level=[level for level, _ in place], side=[side for _, side in place], source="steps"
    )
    rows = [
        (arm, item.level, item.side, "records", item.step, *item.fit[:3], item.fit.n)
        for arm in frame.arms
        for item in frame.pooled[arm].tails
        if item.level in DRAWN and np.isfinite(item.fit.estimate)
    ]
    columns = ["arm", "level", "side", "source", "step", "khat", "low", "high", "n"]
    return _joined([lines, pd.DataFrame(rows, columns=columns)], columns)


def factors_frame(frame: GridFrame) -> pd.DataFrame:
    """arm, quantity, factor, step, value, low, high, n: how wide each factor is, and its part in the tail.

    quantity `std`: standard deviation of the factor's token log ratio, nats, mean over finished seeds;
    `tail_share`: its mean share of the total log ratio over the 1 % largest tokens of a recorded step.
    """
    keys = {f"ratio/{factor}/token/std": factor for factor in FACTORS}
    lines = over_steps(frame, keys)
    lines = lines[lines["series"] == FINISHED_SERIES].rename(columns={"mean": "value"})
    lines = lines.assign(quantity="std", factor=[keys[key] for key in lines["metric"]])
    rows = [
        (arm, "tail_share", factor, item.step, share, np.nan, np.nan, item.found.n)
        for arm in frame.arms
        for item in frame.pooled[arm].factors
        if item.level == "token"
        for factor, share in item.found.tail_share.items()
        if np.isfinite(share)
    ]
    columns = ["arm", "quantity", "factor", "step", "value", "low", "high", "n"]
    return _joined([lines, pd.DataFrame(rows, columns=columns)], columns)


def qq_frame(frame: GridFrame) -> pd.DataFrame:
    """arm, side, expected, observed, low, high, slope, linearity: token tail against the exponential.

    Log excesses over the threshold of k̂'s tail, nats: a power law is a straight line. low and high: where
    a power law would put the point (`alpkit.diagnostics.qq_exponential`). The 50 largest, then every so
    many.
    """
    parts = []
    for arm, level, pool in pools(frame):
        for side in SIDES if level == "token" else ():
            found = qq_exponential(pool.top[side].values, k=tail_size(pool.n))
            if not len(found.observed):
                continue
            some = np.unique(np.r_[:50, np.geomspace(1, found.n_tail, QQ_POINTS).astype(int) - 1])
            some = some[some < found.n_tail]
            curves = (found.expected, found.observed, found.band_low, found.band_high)
            names = ("expected", "observed", "low", "high")
            part = pd.DataFrame({name: curve[some] for name, curve in zip(names, curves)})
            parts.append(
                part.assign(arm=arm, side=side, slope=found.estimate, linearity=found.linearity)
            )
    columns = ["arm", "side", "expected", "observed", "low", "high", "slope", "linearity"]
    return _joined(parts, columns)


def _joined(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    full = [part[columns] for part in parts if len(part)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=columns)
