"""Plot log excesses against exponential quantiles: a power law is a straight line.

A power tail is a straight line through the origin; a line that bends down is lighter (log-normal,
bounded), one that bends up is heavier or a mixture.

    qq_exponential(logp_train - logp_rollout).linearity
"""

import math
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import betaincinv

from alpkit.diagnostics.tailfit import (
    NO_FIT,
    Side,
    Status,
    judged,
    ordered,
    tail_size,
    tail_start,
    tail_status,
)

_NONE: Final = np.array([], np.float64)


class QQ(NamedTuple):
    """The tail beside unit-exponential quantiles, largest first; empty and NaN where `status` says why."""

    expected: Float[np.ndarray, " tail"]
    """Mean of each order statistic of n_tail unit exponentials: sum_{j=i..n_tail} 1/j."""
    observed: Float[np.ndarray, " tail"]
    """Log excess over the threshold, nats."""
    band_low: Float[np.ndarray, " tail"]
    """Lower edge of the range in which a power law with this mean excess puts the point in 90 % of draws.
    Measured on power laws: 97 % of points, as the mean is estimated from the same points."""
    band_high: Float[np.ndarray, " tail"]
    estimate: float
    """Least-squares slope of observed on expected: a tail shape xi (Kratz & Resnick)."""
    linearity: float
    """Pearson correlation of the points; 1 is a power law."""
    n: int
    n_tail: int
    threshold: float
    """Log ratio in nats (minus the log ratio for the left side)."""
    status: Status


def qq_exponential(
    log_ratio: Float[np.ndarray, " item"],
    *,
    side: Side = "right",
    k: int | None = None,
) -> QQ:
    """Pair the tail's log excesses with exponential quantiles, and fit the line's slope.

    Parameters
    ----------
    log_ratio : d, nats; padding removed.
    side : right for x = exp(d), left for 1/x.
    k : items in the tail; default `tail_size(n)`.

    Notes
    -----
    The slope has no interval: it hangs on the few largest values, for which resampling fails (a clustered
    percentile interval covered 0.67 instead of 0.90). `hill` has one. The band takes items as independent.

    References
    ----------
    Kratz & Resnick 1996, The QQ-estimator and heavy tails, Stochastic Models 12(4).
    """
    values = ordered(log_ratio, side).values
    n = values.size
    n_tail = tail_size(n) if k is None else k
    start = tail_start(values, n_tail)
    status = tail_status(values, n_tail, start)
    if status in NO_FIT:
        nan = math.nan
        return QQ(_NONE, _NONE, _NONE, _NONE, nan, nan, n, n_tail, nan, status)
    observed = values[:n_tail] - start
    expected = _expected(n_tail)
    rank = np.arange(1, n_tail + 1)
    # The i-th largest of k exponentials is -log of the i-th smallest of k uniforms.
    near, far = (
        np.asarray(-np.log(betaincinv(rank, n_tail + 1 - rank, q)) * observed.mean())
        for q in (0.95, 0.05)
    )
    centred = expected - expected.mean()
    estimate = float(centred @ observed / (centred @ centred))
    linearity = float(np.corrcoef(expected, observed)[0, 1]) if np.ptp(observed) > 0 else math.nan
    status = judged(status, estimate, n)
    numbers = (estimate, linearity, n, n_tail, start, status)
    return QQ(expected, observed, near, far, *numbers)


def _expected(n_tail: int) -> np.ndarray:
    return np.asarray((1 / np.arange(n_tail, 0, -1)).cumsum()[::-1])
