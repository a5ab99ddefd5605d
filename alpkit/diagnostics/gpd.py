"""The generalised Pareto fit of Zhang and Stephens on log excesses, one fit per row.

The numerical kernel of `alpkit.diagnostics.tails`; it judges nothing and knows no prior.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

_SAFE: Final = 600.0
"""Log of the largest excess over the first quartile up to which the ratios themselves are formed."""


class GpdFit(NamedTuple):
    """A generalised Pareto fit: shape and log scale of each row; NaN where a row has no spread."""

    shape: np.ndarray
    log_scale: np.ndarray


def quartile_index(n_tail: int) -> int:
    """Give the index, in descending order, of the first quartile as Zhang and Stephens define it."""
    return n_tail - int(n_tail / 4 + 0.5)


def log_excess(
    tail: Float[np.ndarray, "*rows tail"], threshold: Float[np.ndarray, "*rows 1"]
) -> Float[np.ndarray, "*rows tail"]:
    """Compute log(exp(tail) - exp(threshold)); -inf for ties with the threshold."""
    with np.errstate(divide="ignore"):
        return np.asarray(tail + np.log(-np.expm1(threshold - tail)))


def zhang_stephens(log_excess: Float[np.ndarray, "*rows tail"]) -> GpdFit:
    """Estimate shape and scale by empirical Bayes from log excesses, descending along the last axis.

    Notes
    -----
    Scale-free form: with x* the largest excess, q the first quartile and the grid b = 1/x* - a/q,
    1 - b x = (1 - x/x*) + a x/q is a sum of non-negative terms, so its log never cancels or
    overflows. xi = mean log(1 - b x) at the posterior mean of b, scale = -xi/b.

    References
    ----------
    Zhang & Stephens 2009, A new and efficient estimation method for the generalized Pareto
    distribution, Technometrics 51(3).
    """
    n = log_excess.shape[-1]
    grid = 30 + int(math.sqrt(n))
    a = (np.sqrt(grid / (np.arange(1, grid + 1) - 0.5)) - 1) / 3
    largest, quartile = log_excess[..., :1], log_excess[..., quartile_index(n), None]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_log = _mean_log(-np.expm1(log_excess - largest), log_excess - quartile)
        candidates = np.stack([mean_log(float(a_i)) for a_i in a], axis=-1)
        b = np.exp(quartile - largest) - a  # in units of 1/q
        profile = n * (np.log(-b / candidates) - candidates - 1)
        profile = np.where(np.isnan(profile), -np.inf, profile)
        weight = np.exp(profile - logsumexp(profile, axis=-1, keepdims=True))
        weight = np.where(weight >= 10 * np.finfo(np.float64).eps, weight, 0.0)
        a_mean = (weight * a).sum(axis=-1, keepdims=True) / weight.sum(axis=-1, keepdims=True)
        shape = mean_log(a_mean)
        b_mean = (np.exp(quartile - largest) - a_mean)[..., 0]
        log_scale = np.log(-shape / b_mean) + quartile[..., 0]
    return GpdFit(np.asarray(shape), np.asarray(log_scale))


def _mean_log(
    below_largest: np.ndarray, scaled: np.ndarray
) -> Callable[[float | np.ndarray], np.ndarray]:
    """a -> mean along the last axis of log(below_largest + a exp(scaled)); all terms non-negative."""
    # A sum of non-negative numbers needs no log space, which costs ten times as much, until exp overflows.
    if scaled.size and np.nanmax(scaled[..., 0], initial=-np.inf) > _SAFE:
        log_below = np.log(below_largest)
        return lambda a: np.asarray(np.logaddexp(log_below, np.log(a) + scaled).mean(axis=-1))
    excess = np.exp(scaled)
    return lambda a: np.asarray(np.log(below_largest + a * excess).mean(axis=-1))
