"""How heavy the tail of the importance ratio is: Hill, peaks over threshold, Pareto k-hat.

All take log ratios and fit the tail of the ratio itself (`side="right"`) or of its inverse
(`side="left"`); ratios are never formed, so nothing overflows. No spread, few points and clamped
values are answers (`status`), not errors. Clamped or softmax-bounded ratios have no true tail
index: what is estimated is the regime up to the largest value seen.

    fit_khat(logp_train - logp_rollout, cluster=prompt)
"""

import math
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alpkit.diagnostics.bootstrap import cluster_index, resampled_tails
from alpkit.diagnostics.divergences import exp_capped
from alpkit.diagnostics.gpd import log_excess, quartile_index, zhang_stephens

Side = Literal["right", "left"]
Status = Literal["ok", "high", "flat", "short", "saturated", "nonfinite"]
SATURATION: Final = 20.0
"""Log ratio (nats) at which engines clamp: values there are censored."""
_MIN_TAIL: Final = 5
_NO_FIT: Final = ("nonfinite", "short", "flat")
_Z90: Final = 1.6448536269514722


class TailFit(NamedTuple):
    """A tail shape with its 90 % interval; NaN where `status` says why there is none."""

    estimate: float
    """Tail shape xi: above 0.5 the ratio has no variance, above 0.7 its mean is not trustworthy."""
    low: float
    high: float
    n: int
    n_tail: int
    threshold: float
    """Where the tail starts: log ratio in nats (minus the log ratio for the left side)."""
    scale: float
    """Scale of the generalised Pareto, divided by the ratio at the threshold; NaN for Hill."""
    status: Status
    """high: above `khat_limit(n)`; saturated: a clamp cut the tail, the estimate is too low."""


def khat_limit(n: int) -> float:
    """k-hat above which n items are too few to trust a mean of ratios: min(1 - 1/log10 n, 0.7)."""
    return min(1 - 1 / math.log10(n), 0.7) if n > 1 else -math.inf


def tail_size(n: int) -> int:
    """Number of items in the tail that k-hat is fitted to: ceil(min(0.2 n, 3 sqrt n))."""
    return math.ceil(min(0.2 * n, 3 * math.sqrt(n)))


def _descending(log_ratio: np.ndarray, side: Side) -> np.ndarray:
    values = np.asarray(log_ratio, dtype=np.float64)
    return np.sort(values if side == "right" else -values)[::-1]


def _start(ordered: np.ndarray, n_tail: int) -> float:
    """The order statistic just below the tail; NaN where the tail is everything."""
    return float(ordered[n_tail]) if n_tail < ordered.size else math.nan


def _status(ordered: np.ndarray, n_tail: int, start: float) -> Status:
    """What forbids a fit above `start` (nonfinite, short, flat) or qualifies it (saturated)."""
    if not np.isfinite(ordered).all():
        return "nonfinite"
    if n_tail < _MIN_TAIL or math.isnan(start):
        return "short"
    # An atom (exact zeros, a low-precision grid) at the threshold leaves no tail to speak of; one
    # at the engines' clamp hides it, and its fit is NaN.
    if ordered[quartile_index(n_tail)] <= start:
        return "saturated" if start >= SATURATION else "flat"
    ties = int(np.count_nonzero(ordered[:n_tail] == ordered[0]))
    if ties > 1 and (ordered[0] >= SATURATION or ties > 0.1 * n_tail):
        return "saturated"
    return "ok"


def _none(status: Status, n: int, n_tail: int) -> TailFit:
    return TailFit(math.nan, math.nan, math.nan, n, n_tail, math.nan, math.nan, status)


def _judged(status: Status, estimate: float, n: int) -> Status:
    return "high" if status == "ok" and estimate > khat_limit(n) else status


def hill(log_ratio: Float[np.ndarray, " item"], k: int, *, side: Side = "right") -> TailFit:
    """Hill estimate on the k largest ratios (or inverse ratios).

    Parameters
    ----------
    log_ratio : d, nats; padding removed.
    k : items in the tail; look at several (`hill_curve`), never at one.
    side : right for x = exp(d), left for 1/x.

    Returns
    -------
    TailFit : `estimate` = mean(d_(i) - d_(k+1)), i <= k; `low`, `high` = the i.i.d. interval
        estimate (1 +- 1.645/sqrt k), too narrow where tokens of a response depend on each other.

    References
    ----------
    Hill 1975, A simple general approach to inference about the tail of a distribution.
    """
    ordered = _descending(log_ratio, side)
    return hill_of_top(ordered, k, n=ordered.size)


def hill_of_top(top: Float[np.ndarray, " top"], k: int, *, n: int) -> TailFit:
    """Hill estimate from the largest of n log ratios alone, descending; more than k of them."""
    start = _start(top, k)
    status = _status(top, k, start)
    if status in _NO_FIT:
        return _none(status, n, k)
    estimate = float(np.mean(top[:k] - start))
    margin = _Z90 * estimate / math.sqrt(k)
    numbers = (estimate, estimate - margin, estimate + margin, n, k, start, math.nan)
    return TailFit(*numbers, _judged(status, estimate, n))


def hill_curve(
    log_ratio: Float[np.ndarray, " item"], ks: Int[np.ndarray, " k"], *, side: Side = "right"
) -> Float[np.ndarray, " k"]:
    """Hill estimates for every k of `ks`, the stability plot; NaN where k < 1 or k >= n."""
    ordered = _descending(log_ratio, side)
    ks = np.asarray(ks)
    legal = (ks >= 1) & (ks < ordered.size)
    values = np.full(ks.shape, math.nan)
    if legal.any() and np.isfinite(ordered).all():
        k = ks[legal]
        values[legal] = np.cumsum(ordered)[k - 1] / k - ordered[k]
    return values


def fit_gpd(
    log_ratio: Float[np.ndarray, " item"], *, side: Side = "right", threshold: float | None = None
) -> TailFit:
    """Generalised Pareto fitted to the ratio's excesses over a threshold (no prior).

    Parameters
    ----------
    log_ratio : d, nats; padding removed.
    side : right for x = exp(d), left for 1/x.
    threshold : where the tail starts, in the log of the side's variable (d, or -d); default: such
        that the tail has `tail_size(n)` items.

    Returns
    -------
    TailFit : `estimate` > 0 is a power tail with index 1/estimate; `low`, `high` = the i.i.d.
        asymptotic interval estimate +- 1.645 (1 + estimate)/sqrt(n_tail), NaN below -1/2.

    References
    ----------
    Zhang & Stephens 2009, A new and efficient estimation method for the generalized Pareto
    distribution, Technometrics 51(3).
    """
    ordered = _descending(log_ratio, side)
    n = ordered.size
    n_tail = tail_size(n) if threshold is None else int(np.count_nonzero(ordered > threshold))
    start = _start(ordered, n_tail) if threshold is None else threshold
    status = _status(ordered, n_tail, start)
    if status in _NO_FIT:
        return _none(status, n, n_tail)
    fit = zhang_stephens(log_excess(ordered[:n_tail], np.full(1, start)))
    estimate, scale = float(fit.shape), exp_capped(float(fit.log_scale) - start)
    margin = _Z90 * (1 + estimate) / math.sqrt(n_tail) if estimate > -0.5 else math.nan
    numbers = (estimate, estimate - margin, estimate + margin, n, n_tail, start, scale)
    return TailFit(*numbers, _judged(status, estimate, n))


def _with_prior(shape: np.ndarray, n_tail: int) -> np.ndarray:
    """PSIS's weak prior: ten observations' worth of shape 0.5."""
    return np.asarray((n_tail * shape + 10 * 0.5) / (n_tail + 10))


def fit_khat(
    log_ratio: Float[np.ndarray, " item"],
    *,
    side: Side = "right",
    cluster: Int[np.ndarray, " item"] | None = None,
    n_boot: int = 400,
    seed: int = 0,
) -> TailFit:
    """Pareto k-hat of the ratios: shape of their largest values' excesses, with PSIS's weak prior.

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
    values = np.asarray(log_ratio, dtype=np.float64) * (1 if side == "right" else -1)
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    n_tail = tail_size(ordered.size)
    owner = cluster_index(cluster, ordered.size)[order]
    many = int(owner.max(initial=-1)) + 1
    return khat_of_top(
        ordered,
        n=ordered.size,
        n_tail=n_tail,
        owner=owner,
        clusters=many,
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
    """k-hat from the largest of n log ratios alone, descending; more than `n_tail` of them.

    With `owner` (each one's cluster, numbered from 0 to `clusters` - 1) and `n_boot` also its interval,
    which wants about four times `n_tail` items: a resample draws some clusters several times.
    """
    start = _start(top, n_tail)
    status = _status(top, n_tail, start)
    if status in _NO_FIT:
        return _none(status, n, n_tail)
    fit = zhang_stephens(log_excess(top[:n_tail], top[n_tail, None]))
    estimate = float(_with_prior(fit.shape, n_tail))
    low = high = math.nan
    # One cluster has nothing to resample.
    if owner is not None and n_boot and clusters > 1 and math.isfinite(estimate):
        tails = resampled_tails(top, owner, n_tail + 1, clusters=clusters, n_boot=n_boot, seed=seed)
        low, high = _khat_interval(tails)
    scale = exp_capped(float(fit.log_scale) - start)
    numbers = (estimate, low, high, n, n_tail, start, scale)
    return TailFit(*numbers, _judged(status, estimate, n))


def _khat_interval(tails: np.ndarray) -> tuple[float, float]:
    """5 % and 95 % quantiles of k-hat over resampled tails that have a spread."""
    n_tail = tails.shape[1] - 1
    shapes = zhang_stephens(log_excess(tails[:, :-1], tails[:, -1:])).shape
    shapes = shapes[np.isfinite(shapes)]
    if not shapes.size:
        return math.nan, math.nan
    low, high = np.quantile(_with_prior(shapes, n_tail), [0.05, 0.95])
    return float(low), float(high)
