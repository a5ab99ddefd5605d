"""Interquartile mean, its stratified bootstrap and P(improvement), as rliable defines them.

Scores are runs × tasks, and resampling keeps the tasks apart. Display only: a percentile bootstrap of
three seeds is far too narrow (a paired one of the IQM claims a null difference in 26 % of grids), so
verdicts come from `alpkit.analysis.seeds.verdicts`.

    iqm(scores); iqm_interval(scores); improvement(ours, theirs)
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
RESAMPLES = 2_000


class Estimate(NamedTuple):
    """A value with its 95 % percentile interval."""

    value: float
    low: float
    high: float


def iqm(scores: ArrayLike) -> float:
    """Compute the mean of the middle half of all scores, over runs and tasks together.

    References
    ----------
    Agarwal et al. 2021, Deep RL at the edge of the statistical precipice, §4.3, arXiv:2108.13264
    """
    return float(stats.trim_mean(_runs_by_tasks(scores), 0.25, axis=None))


def iqm_interval(scores: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Compute `iqm` with its stratified bootstrap interval: runs are resampled within every task."""
    table = _runs_by_tasks(scores)
    drawn = _resample(table, resamples, np.random.default_rng(seed))
    values = stats.trim_mean(drawn.reshape(resamples, -1), 0.25, axis=1)
    return _estimate(iqm(table), values)


def improvement(
    ours: ArrayLike, theirs: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Estimate P(a run of ours scores above a run of theirs), unpaired, averaged over tasks; ties count half.

    The Mann-Whitney statistic over the number of pairs of runs. 0.5: as often above as below.

    References
    ----------
    Agarwal et al. 2021, §4.4, arXiv:2108.13264
    """
    mine, other = _runs_by_tasks(ours), _runs_by_tasks(theirs)
    if mine.shape[1] != other.shape[1]:
        raise ValueError(f"ours has {mine.shape[1]} tasks, theirs {other.shape[1]}")
    rng = np.random.default_rng(seed)
    drawn = _above(_resample(mine, resamples, rng), _resample(other, resamples, rng))
    return _estimate(float(_above(mine[None], other[None])[0]), drawn)


def _runs_by_tasks(scores: ArrayLike) -> FloatArray:
    table = np.asarray(scores, float)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"scores must be finite, runs or runs x tasks, got shape {table.shape}")
    return table


def _resample(table: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    runs, tasks = table.shape
    chosen = rng.integers(0, runs, (resamples, runs, tasks))
    drawn: FloatArray = table[chosen, np.arange(tasks)]
    return drawn


def _above(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    """Give the share of pairs of runs in which ours is above, per resample."""
    gap = ours[:, :, None, :] - theirs[:, None, :, :]
    shares: FloatArray = np.mean((gap > 0) + 0.5 * (gap == 0), axis=(1, 2, 3))
    return shares


def _estimate(value: float, drawn: FloatArray) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
