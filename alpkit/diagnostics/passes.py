"""avg@k and pass@k of evaluated problems, with intervals over problems: numpy and scipy only.

The samples of one problem are not independent of each other: a problem is the unit that is drawn, so that
every interval is over problems.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student


class Mean(NamedTuple):
    """A mean over problems with its 95 % t interval, clustered by problem; nan ends with one problem."""

    mean: float
    low: float
    high: float
    problems: int


def pass_at_k(solved: Sequence[int] | np.ndarray, samples: int) -> np.ndarray:
    """Chance that at least one of k samples solves a problem, for every k from 1 to `samples`.

    Parameters
    ----------
    solved : how many of the problem's samples solved it, one entry per problem.

    Returns
    -------
    Array [problem, k - 1]; its column means are pass@k.

    Notes
    -----
    1 - C(n - c, k) / C(n, k), the unbiased estimate from n samples of which c are right.

    References
    ----------
    Chen et al. 2021, Evaluating Large Language Models Trained on Code, eq. (1), arXiv:2107.03374
    """
    wrong = samples - np.asarray(solved, dtype=float)[:, None]
    drawn = np.arange(samples, dtype=float)
    # Drawing one after the other: each draw misses with (wrong left) / (samples left).
    misses = np.maximum(wrong - drawn, 0.0) / (samples - drawn)
    return np.asarray(1.0 - misses.cumprod(axis=1))


def mean_over_problems(values: Sequence[float] | np.ndarray) -> Mean:
    """Mean of one value per problem with its 95 % interval: t with problems - 1 degrees of freedom."""
    array = np.asarray(values, dtype=float)
    mean, count = float(array.mean()), len(array)
    if count < 2:
        return Mean(mean, float("nan"), float("nan"), count)
    reach = float(student.ppf(0.975, count - 1) * array.std(ddof=1) / np.sqrt(count))
    return Mean(mean, mean - reach, mean + reach, count)


def reach_over_sets(sets: Sequence[np.ndarray]) -> np.ndarray:
    """Half the 95 % interval of an unweighted mean over sets, each the mean of its problems.

    Parameters
    ----------
    sets : one array [problem, k] a set; a problem's row is the mean over whoever answered it.

    Returns
    -------
    Array [k]: t with Welch's degrees of freedom; 0 where no problem differs, nan where a set has one problem.
    """
    if min(len(values) for values in sets) < 2:
        return np.full(sets[0].shape[1], np.nan)
    freedom = np.array([[len(values) - 1.0] for values in sets])
    parts = np.stack([values.var(axis=0, ddof=1) / len(values) for values in sets]) / len(sets) ** 2
    variance, spread = parts.sum(axis=0), (parts**2 / freedom).sum(axis=0)
    degrees = np.where(spread > 0, variance**2 / np.where(spread > 0, spread, 1.0), 1.0)
    return np.asarray(student.ppf(0.975, degrees) * np.sqrt(variance))
