"""Estimate how heavy the importance ratio's tail is: Hill, peaks over threshold, Pareto k-hat.

All take log ratios and fit the tail of the ratio itself (`side="right"`) or of its inverse
(`side="left"`); ratios are never formed, so nothing overflows. No spread, few points and clamped
values are answers (`status`), not errors. Clamped or softmax-bounded ratios have no true tail
index: what is estimated is the regime up to the largest value seen. docs/tails.md measures each.

    fit_khat(logp_train - logp_rollout, cluster=prompt)
"""

import math
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from alpkit.diagnostics.bootstrap import tail_interval
from alpkit.diagnostics.gpd import log_excess, zhang_stephens
from alpkit.diagnostics.hill import HillCurve, hill, hill_curve, hill_of_top
from alpkit.diagnostics.overflow import exp_capped
from alpkit.diagnostics.tailfit import (
    NO_FIT,
    SATURATION,
    Z90,
    Side,
    Status,
    TailFit,
    judged,
    khat_limit,
    no_fit,
    ordered,
    tail_size,
    tail_start,
    tail_status,
)

__all__ = [
    "SATURATION",
    "HillCurve",
    "Side",
    "Status",
    "TailFit",
    "fit_gpd",
    "fit_gpd_mle",
    "fit_khat",
    "hill",
    "hill_curve",
    "hill_of_top",
    "khat_limit",
    "khat_of_top",
    "tail_size",
]

_FLOAT_SPAN: Final = 300.0
"""Log of the largest excess over the median one that scipy's likelihood is trusted with."""


def fit_gpd(
    log_ratio: Float[np.ndarray, " item"],
    *,
    side: Side = "right",
    threshold: float | None = None,
    cluster: Int[np.ndarray, " item"] | None = None,
    n_boot: int = 400,
    seed: int = 0,
) -> TailFit:
    """Fit a generalised Pareto to the ratio's excesses over a threshold, without a prior.

    Parameters
    ----------
    log_ratio : d, nats; padding removed.
    side : right for x = exp(d), left for 1/x.
    threshold : where the tail starts, in the log of the side's variable (d, or -d); default: such
        that the tail has `tail_size(n)` items.
    cluster, n_boot, seed : as for `hill`. Resamples keep the number of items in the tail.

    Returns
    -------
    TailFit : `estimate` > 0 is a power tail with index 1/estimate; `low`, `high` = 90 % percentile
        interval over clusters, or the i.i.d. asymptotic estimate +- 1.645 (1 + estimate)/sqrt(n_tail),
        NaN below -1/2.

    References
    ----------
    Zhang & Stephens 2009, A new and efficient estimation method for the generalized Pareto
    distribution, Technometrics 51(3).
    """
    values, owner, clusters = ordered(log_ratio, side, cluster)
    n = values.size
    n_tail = tail_size(n) if threshold is None else int(np.count_nonzero(values > threshold))
    start = tail_start(values, n_tail) if threshold is None else threshold
    status = tail_status(values, n_tail, start)
    if status in NO_FIT:
        return no_fit(status, n, n_tail)
    fit = zhang_stephens(log_excess(values[:n_tail], np.full(1, start)))
    estimate, scale = float(fit.shape), exp_capped(float(fit.log_scale) - start)
    margin = Z90 * (1 + estimate) / math.sqrt(n_tail) if estimate > -0.5 else math.nan
    low, high = estimate - margin, estimate + margin
    if cluster is not None:
        low, high = tail_interval(
            values, owner, n_tail, _gpd_rows, clusters=clusters, n_boot=n_boot, seed=seed
        )
    return TailFit(estimate, low, high, n, n_tail, start, scale, judged(status, estimate, n))


def fit_gpd_mle(
    log_ratio: Float[np.ndarray, " item"], *, side: Side = "right", threshold: float | None = None
) -> TailFit:
    """Fit a generalised Pareto by scipy's maximum likelihood: a second source beside `fit_gpd`.

    Parameters
    ----------
    log_ratio, side, threshold : as for `fit_gpd`.

    Returns
    -------
    TailFit : as `fit_gpd` with the i.i.d. interval, NaN below -1/2, where the likelihood has no regular
        maximum. `nonfinite` where the excesses themselves are beyond float64, as `fit_gpd`'s logs never are.

    References
    ----------
    Smith 1985, Maximum likelihood estimation in a class of nonregular cases, Biometrika 72(1).
    """
    from scipy.stats import (
        genpareto,  # half a second, which no run and no other estimator should pay
    )

    start_values = fit_gpd(log_ratio, side=side, threshold=threshold)
    if start_values.status in NO_FIT or not math.isfinite(start_values.estimate):
        return start_values
    values, n_tail, start = ordered(log_ratio, side).values, *start_values[4:6]
    log_sizes = log_excess(values[:n_tail], np.full(1, start))
    unit = float(np.median(log_sizes))
    if not math.isfinite(unit) or log_sizes[0] - unit > _FLOAT_SPAN:
        return no_fit("nonfinite", values.size, n_tail)
    shape, _, scale = genpareto.fit(np.exp(log_sizes - unit), start_values.estimate, floc=0)
    margin = Z90 * (1 + shape) / math.sqrt(n_tail) if shape > -0.5 else math.nan
    status = "ok" if start_values.status == "high" else start_values.status
    return TailFit(
        float(shape),
        float(shape - margin),
        float(shape + margin),
        values.size,
        n_tail,
        start,
        exp_capped(math.log(scale) + unit - start),
        judged(status, float(shape), values.size),
    )


def _gpd_rows(tails: np.ndarray) -> np.ndarray:
    return zhang_stephens(log_excess(tails[:, :-1], tails[:, -1:])).shape


def _with_prior(shape: np.ndarray, n_tail: int) -> np.ndarray:
    """Apply PSIS's weak prior: ten observations' worth of shape 0.5."""
    return np.asarray((n_tail * shape + 10 * 0.5) / (n_tail + 10))


def fit_khat(
    log_ratio: Float[np.ndarray, " item"],
    *,
    side: Side = "right",
    cluster: Int[np.ndarray, " item"] | None = None,
    n_boot: int = 400,
    seed: int = 0,
) -> TailFit:
    """Estimate Pareto k-hat: the shape of the largest ratios' excesses, with PSIS's weak prior.

    Parameters
    ----------
    log_ratio : d, nats; padding removed.
    side : right for x = exp(d), left for 1/x.
    cluster : id of each item's prompt (or response): what the interval resamples. Without it items
        count as independent, which makes token-level intervals too narrow.
    n_boot : resamples for the interval; 0 for the estimate alone.
    seed : seed of the resampling.

    Returns
    -------
    TailFit : `estimate` (k-hat; above `khat_limit(n)` status is high and a mean of the ratios is
        not to be trusted), `low`, `high` (90 % percentile interval), `n_tail` = `tail_size(n)`.

    Notes
    -----
    Invariant to scaling of the ratios. Log-normal ratios have shape 0 in the limit but a positive
    k-hat at any finite n: it describes the tail at this sample size.

    References
    ----------
    Vehtari et al. 2024, Pareto smoothed importance sampling, arXiv:1507.02646
    """
    values, owner, clusters = ordered(log_ratio, side, cluster)
    return khat_of_top(
        values,
        n=values.size,
        n_tail=tail_size(values.size),
        owner=owner,
        clusters=clusters,
        n_boot=n_boot,
        seed=seed,
    )


def khat_of_top(
    top: Float[np.ndarray, " top"],
    *,
    n: int,
    n_tail: int,
    owner: Int[np.ndarray, " top"] | None = None,
    clusters: int = 0,
    n_boot: int = 0,
    seed: int = 0,
) -> TailFit:
    """Compute k-hat from the largest of n log ratios alone: more than `n_tail` of them, descending.

    With `owner` (each one's cluster, numbered from 0 to `clusters` - 1) and `n_boot` also its interval,
    which wants about four times `n_tail` items: a resample draws some clusters several times.
    """
    start = tail_start(top, n_tail)
    status = tail_status(top, n_tail, start)
    if status in NO_FIT:
        return no_fit(status, n, n_tail)
    fit = zhang_stephens(log_excess(top[:n_tail], top[n_tail, None]))
    estimate, scale = float(_with_prior(fit.shape, n_tail)), float(fit.log_scale) - start
    low = high = math.nan
    if owner is not None and math.isfinite(estimate):
        low, high = tail_interval(
            top, owner, n_tail, _khat_rows, clusters=clusters, n_boot=n_boot, seed=seed
        )
    status = judged(status, estimate, n)
    return TailFit(estimate, low, high, n, n_tail, start, exp_capped(scale), status)


def _khat_rows(tails: np.ndarray) -> np.ndarray:
    return _with_prior(_gpd_rows(tails), tails.shape[1] - 1)
