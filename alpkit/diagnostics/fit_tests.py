"""Test a fitted tail: goodness of fit of the GPD, and log-normal against power law.

Both judge independent items: where tokens of a response move together, a small p may be the
dependence and not the shape. At product level (one item per response) that worry is smaller.

    goodness_of_fit(log_ratio).ad_p, compare_lognormal(log_ratio).favours
"""

import math
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import chdtrc, log_ndtr

from alpkit.diagnostics.gpd import GpdFit, log_excess, zhang_stephens
from alpkit.diagnostics.tailfit import (
    NO_FIT,
    Z90,
    Side,
    Status,
    ordered,
    tail_size,
    tail_start,
    tail_status,
)

_TINY: Final = float(np.finfo(np.float64).tiny)
_CELLS: Final = 1 << 20


class GoodnessOfFit(NamedTuple):
    """Distance of the tail from its generalised Pareto fit; NaN where `status` says why."""

    ks: float
    """Kolmogorov-Smirnov: largest distance of the two distribution functions."""
    ks_p: float
    ad: float
    """Anderson-Darling A^2, which weighs the ends."""
    ad_p: float
    shape: float
    """Shape of the fit that is judged (`fit_gpd`)."""
    n: int
    n_tail: int
    threshold: float
    """Log ratio in nats (minus the log ratio for the left side)."""
    status: Status
    """ok, flat, short, saturated or nonfinite; a p-value of tied or clamped data is about the ties."""


def goodness_of_fit(
    log_ratio: Float[np.ndarray, " item"],
    *,
    side: Side = "right",
    threshold: float | None = None,
    n_boot: int = 200,
    seed: int = 0,
) -> GoodnessOfFit:
    """Test whether the ratio's excesses over a threshold follow the generalised Pareto that is fitted to them.

    Parameters
    ----------
    log_ratio : d, nats; padding removed.
    side : right for x = exp(d), left for 1/x.
    threshold : as for `fit_gpd`.
    n_boot : simulated tails for the p-values, which are multiples of 1/(n_boot + 1).
    seed : seed of the simulation.

    Notes
    -----
    p by parametric bootstrap: tails of the fitted shape are simulated and refitted, so the p-value
    knows that the shape came from the data (tables of KS do not). Small p: raise the threshold.

    References
    ----------
    Choulakian & Stephens 2001, Goodness-of-fit tests for the generalized Pareto distribution,
    Technometrics 43(4).
    """
    values = ordered(log_ratio, side).values
    n = values.size
    n_tail = tail_size(n) if threshold is None else int(np.count_nonzero(values > threshold))
    start = tail_start(values, n_tail) if threshold is None else threshold
    status = tail_status(values, n_tail, start)
    nan = math.nan
    if status in NO_FIT:
        return GoodnessOfFit(nan, nan, nan, nan, nan, n, n_tail, nan, status)
    excess = log_excess(values[None, :n_tail], np.full((1, 1), start))
    fit = zhang_stephens(excess)
    shape = float(fit.shape[0])
    if not math.isfinite(shape):  # a clamp swallowed the tail
        return GoodnessOfFit(nan, nan, nan, nan, nan, n, n_tail, start, "saturated")
    ks, ad = (float(distance[0]) for distance in _distances(excess, fit))
    null = _simulated(shape, n_tail, n_boot, seed)
    ks_p, ad_p = (_p_value(distance, draws) for distance, draws in zip((ks, ad), null))
    return GoodnessOfFit(ks, ks_p, ad, ad_p, shape, n, n_tail, start, status)


def _p_value(distance: float, draws: np.ndarray) -> float:
    """Give the share of draws at least as far off, counting the data as one; NaN without draws."""
    return (
        (1 + int(np.count_nonzero(draws >= distance))) / (1 + draws.size)
        if draws.size
        else math.nan
    )


def _simulated(shape: float, n_tail: int, n_boot: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate samples of the unit-scale GPD, refit each, and give their KS and AD distances."""
    rng = np.random.default_rng(seed)
    distances = []
    rows = max(1, _CELLS // n_tail)
    for first in range(0, n_boot, rows):
        draws = rng.standard_exponential((min(rows, n_boot - first), n_tail))
        excess = _log_quantile(-np.sort(-draws, axis=1), shape)
        distances.append(_distances(excess, zhang_stephens(excess)))
    ks, ad = (
        (np.concatenate(parts) for parts in zip(*distances)) if distances else (np.array([]),) * 2
    )
    return ks, ad


def _log_quantile(exponential: np.ndarray, shape: float) -> np.ndarray:
    """Turn a unit exponential e into the log of a GPD draw: log((exp(shape e) - 1) / shape)."""
    if abs(shape) < 1e-12:
        return np.asarray(np.log(exponential))
    scaled = abs(shape) * exponential
    log_of = np.log(-np.expm1(-scaled)) - math.log(abs(shape))
    return np.asarray(log_of + scaled if shape > 0 else log_of)


def _distances(log_excess: np.ndarray, fit: GpdFit) -> tuple[np.ndarray, np.ndarray]:
    """Compute KS and A^2 of each row of log excesses, descending, against its own fit."""
    n = log_excess.shape[1]
    log_above = _log_survival(log_excess, fit.shape[:, None], fit.log_scale[:, None])
    # The descending row i (0-based) has n - 1 - i items below it.
    below = np.maximum(-np.expm1(log_above), _TINY)  # a tie with the threshold would be log 0
    rank = np.arange(n, 0, -1)
    ks = np.maximum(rank / n - below, below - (rank - 1) / n).max(axis=1)
    weight = (2 * rank - 1) / n
    ad = -n - (weight * (np.log(below) + log_above[:, ::-1])).sum(axis=1)
    return np.asarray(ks), np.asarray(ad)


def _log_survival(excess: np.ndarray, shape: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
    """Compute -log(1 + shape x)/shape of scaled excesses x, without forming an x that could overflow."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_x = excess - log_scale
        log_size = np.log(np.abs(shape)) + log_x
        heavy = -np.logaddexp(0.0, log_size) / shape
        bounded = -np.log1p(-np.minimum(np.exp(log_size), 1 - 1e-16)) / shape
        return np.where(np.abs(shape) < 1e-12, -np.exp(log_x), np.where(shape > 0, heavy, bounded))


class Vuong(NamedTuple):
    """Left-truncated log-normal against Pareto on one tail, by Vuong's test; NaN where `status` says why."""

    statistic: float
    """Log-likelihood ratio over its standard deviation times sqrt(n_tail); never negative, as the
    Pareto is a limit of the log-normal. 0: the best log-normal is the Pareto."""
    p: float
    """p-value of the log-likelihood ratio if the tail were Pareto: half its mass at 0, half chi-squared(1)."""
    favours: Literal["lognormal", "power law", "neither"]
    """lognormal: p < 0.05 and its second parameter pays by BIC. power law: neither of the two, which is
    all that can be said for it. neither: the two disagree, the tail is heavier than any power law (CV of
    the log excesses above 1, one-sided 5 %), or there is none."""
    log_likelihood_ratio: float
    """Log-normal minus Pareto, nats, summed over the tail."""
    n: int
    n_tail: int
    threshold: float
    """Log ratio in nats (minus the log ratio for the left side)."""
    status: Status
    """ok, flat, short, saturated or nonfinite."""


def compare_lognormal(
    log_ratio: Float[np.ndarray, " item"], *, side: Side = "right", k: int | None = None
) -> Vuong:
    """Test whether a log-normal describes the tail better than a power law.

    Parameters
    ----------
    log_ratio : d, nats; padding removed.
    side : right for x = exp(d), left for 1/x.
    k : items in the tail; default `tail_size(n)`.

    Notes
    -----
    In log excesses e over the threshold: an exponential against a normal cut at 0, both at maximum
    likelihood. The cut normal is the exponential in the limit, hence p by the boundary test and not
    Vuong's normal p, which does not hold for nested models. CV(e) >= 1 leaves nothing to the normal.

    References
    ----------
    Vuong 1989, Likelihood ratio tests for model selection and non-nested hypotheses.
    Clauset, Shalizi & Newman 2009, Power-law distributions in empirical data, appendix C.
    Self & Liang 1987 (the boundary test).
    """
    values = ordered(log_ratio, side).values
    n = values.size
    n_tail = tail_size(n) if k is None else k
    start = tail_start(values, n_tail)
    status = tail_status(values, n_tail, start)
    if status in NO_FIT:
        return Vuong(math.nan, math.nan, "neither", math.nan, n, n_tail, math.nan, status)
    excess = values[:n_tail] - start
    gain = _log_likelihood_gain(excess / excess.mean())
    if gain is None:
        return Vuong(math.nan, math.nan, "neither", math.nan, n, n_tail, start, "saturated")
    total = max(float(gain.sum()), 0.0)
    spread = float(gain.std()) * math.sqrt(n_tail)
    statistic = total / spread if spread > 0 else 0.0
    p = float(chdtrc(1, 2 * total)) / 2 if total > 0 else 1.0
    pays = 2 * total > math.log(n_tail)
    favours: Literal["lognormal", "power law", "neither"] = "neither"
    if p < 0.05 and pays:
        favours = "lognormal"
    elif p >= 0.05 and not pays and not _heavier_than_power(excess):
        favours = "power law"
    return Vuong(statistic, p, favours, total, n, n_tail, start, status)


def _heavier_than_power(excess: np.ndarray) -> bool:
    """Test whether the coefficient of variation is above 1: sqrt(n) (CV - 1) of exponentials is standard normal."""
    cv = float(excess.std() / excess.mean())
    return math.sqrt(excess.size) * (cv - 1) > Z90


def _log_likelihood_gain(e: np.ndarray) -> np.ndarray | None:
    """Give each item's log density under the best truncated normal minus under the exponential, for mean(e) = 1.

    None where all excesses are equal.
    """
    from scipy.optimize import brentq  # here, as no training run needs to load it

    second = float(np.mean(e**2))
    if second <= 1 + 1e-12:
        return None
    # E e^2 / (E e)^2 of a normal cut tau standard deviations above its mean rises from 1 to 2, the
    # exponential's; at 50 the two are equal to a part in a thousand.
    if second >= _moment_ratio(50.0):
        return np.zeros_like(e)
    low = -2.0
    while _moment_ratio(low) > second:
        low *= 2
    tau = float(brentq(lambda t: _moment_ratio(t) - second, low, 50.0, xtol=1e-12))
    sd = 1 / (_hazard(tau) - tau)
    log_normal = -0.5 * (e / sd + tau) ** 2 - math.log(sd * math.sqrt(2 * math.pi))
    return np.asarray(log_normal - float(log_ndtr(-tau)) + e)


def _hazard(tau: float) -> float:
    """Compute the normal density over the survival at tau."""
    return math.exp(-0.5 * tau**2 - 0.5 * math.log(2 * math.pi) - float(log_ndtr(-tau)))


def _moment_ratio(tau: float) -> float:
    hazard = _hazard(tau)
    return (1 - tau * hazard + tau**2) / (hazard - tau) ** 2
