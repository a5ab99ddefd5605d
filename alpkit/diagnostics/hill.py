"""Hill's estimator: the mean log ratio above a threshold, as a number and as a curve over k.

hill_curve(logp_train - logp_rollout, np.arange(10, 400), cluster=prompt)
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from alpkit.diagnostics.bootstrap import resampled_tails, tail_interval
from alpkit.diagnostics.tailfit import (
    NO_FIT,
    SATURATION,
    Z90,
    Side,
    Status,
    TailFit,
    judged,
    no_fit,
    ordered,
    tail_start,
    tail_status,
)


class HillCurve(NamedTuple):
    """Hill estimates over k, with their pointwise 90 % band; NaN where k < 1 or k >= n."""

    k: Int[np.ndarray, " k"]
    estimate: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    n: int
    status: Status
    """ok, flat (the largest values are all equal), saturated (at a clamp), short (n < 2) or nonfinite."""


def hill(
    log_ratio: Float[np.ndarray, " item"],
    k: int,
    *,
    side: Side = "right",
    cluster: Int[np.ndarray, " item"] | None = None,
    n_boot: int = 400,
    seed: int = 0,
) -> TailFit:
    """Estimate the tail shape from the k largest ratios (or inverse ratios), by Hill.

    Parameters
    ----------
    log_ratio : d, nats; padding removed.
    k : items in the tail; look at several (`hill_curve`), never at one.
    side : right for x = exp(d), left for 1/x.
    cluster : id of each item's prompt (or response): what the interval resamples. Without it the
        interval is the i.i.d. one, too narrow where tokens of a response depend on each other.
    n_boot : resamples for the clustered interval; 0 for the estimate alone.
    seed : seed of the resampling.

    Returns
    -------
    TailFit : `estimate` = mean(d_(i) - d_(k+1)), i <= k; `low`, `high` = 90 % percentile interval
        over clusters, stretched by Student's t where few of them make the tail, or the i.i.d.
        estimate (1 +- 1.645/sqrt k).

    References
    ----------
    Hill 1975, A simple general approach to inference about the tail of a distribution.
    """
    values, owner, clusters = ordered(log_ratio, side, cluster)
    by = None if cluster is None else owner
    n = values.size
    return hill_of_top(values, k, n=n, owner=by, clusters=clusters, n_boot=n_boot, seed=seed)


def hill_of_top(
    top: Float[np.ndarray, " top"],
    k: int,
    *,
    n: int,
    owner: Int[np.ndarray, " top"] | None = None,
    clusters: int = 0,
    n_boot: int = 0,
    seed: int = 0,
) -> TailFit:
    """Compute `hill` from the largest of n log ratios alone: more than k of them, descending.

    The interval is clustered with `owner`, whose arguments are as for `khat_of_top`.
    """
    start = tail_start(top, k)
    status = tail_status(top, k, start)
    if status in NO_FIT:
        return no_fit(status, n, k)
    estimate = float(np.mean(top[:k] - start))
    margin = Z90 * estimate / math.sqrt(k)
    low, high = estimate - margin, estimate + margin
    if owner is not None:
        interval = tail_interval(
            top, owner, k, _hill_rows, clusters=clusters, n_boot=n_boot, seed=seed
        )
        low, high = _widened(np.array(interval), top, owner, k)
    status = judged(status, estimate, n)
    return TailFit(estimate, low, high, n, k, start, math.nan, status)


def _widened(
    interval: np.ndarray, top: np.ndarray, owner: np.ndarray, k: int
) -> tuple[float, float]:
    """Stretch a percentile interval by Student's t, for the few clusters that make the tail.

    Of 200 prompts four may own it; a bootstrap cannot know what a fifth would have added. Their number
    is (sum psi^2)^2 / sum psi^4 over clusters, psi the cluster's part in the estimate's error.
    """
    excess = top[:k] - top[k]
    estimate = float(excess.mean())
    psi = np.bincount(owner[:k], weights=excess - estimate) ** 2
    if not (psi > 0).any():
        return math.nan, math.nan
    effective = float(psi.sum() ** 2 / (psi**2).sum())
    low, high = estimate + (interval - estimate) * float(stdtrit(effective, 0.95)) / Z90
    return max(float(low), 0.0), float(high)  # no mean excess is negative


def _hill_rows(tails: np.ndarray) -> np.ndarray:
    return np.asarray((tails[:, :-1] - tails[:, -1:]).mean(axis=1))


def hill_curve(
    log_ratio: Float[np.ndarray, " item"],
    ks: Int[np.ndarray, " k"],
    *,
    side: Side = "right",
    cluster: Int[np.ndarray, " item"] | None = None,
    n_boot: int = 400,
    seed: int = 0,
) -> HillCurve:
    """Compute Hill estimates for every k of `ks`: the stability plot. Arguments as for `hill`.

    A power law shows as a plateau. The band is over clusters, or the i.i.d. one without them.
    """
    values, owner, clusters = ordered(log_ratio, side, cluster)
    k = np.asarray(ks)
    nothing = np.full(k.shape, math.nan)
    legal = (k >= 1) & (k < values.size)
    if not np.isfinite(values).all():
        return HillCurve(k, nothing, nothing, nothing, values.size, "nonfinite")
    if values.size < 2 or not legal.any():
        return HillCurve(k, nothing, nothing, nothing, values.size, "short")
    estimate, low, high = nothing.copy(), nothing.copy(), nothing.copy()
    estimate[legal] = _curve(values[None], k[legal])[0]
    if cluster is None:
        low, high = (estimate * (1 + sign * Z90 / np.sqrt(np.maximum(k, 1))) for sign in (-1, 1))
    elif n_boot and clusters > 1:
        tails = resampled_tails(
            values, owner, int(k[legal].max()) + 1, clusters=clusters, n_boot=n_boot, seed=seed
        )
        curves = np.concatenate([_curve(rows, k[legal]) for rows in tails])
        curves = curves[np.isfinite(curves).all(axis=1)]
        if curves.size:
            bands = np.quantile(curves, [0.05, 0.95], axis=0).T
            wide = [_widened(band, values, owner, int(size)) for band, size in zip(bands, k[legal])]
            low[legal], high[legal] = np.array(wide).T
    status: Status = "ok" if (estimate[legal] > 0).any() else "flat"
    if values[1] == values[0] >= SATURATION:
        status = "saturated"
    return HillCurve(k, estimate, low, high, values.size, status)


def _curve(tails: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Compute Hill estimates of each row of descending values."""
    # Differences to the largest, so that a common shift costs no digits.
    below = tails - tails[:, :1]
    return np.asarray(np.cumsum(below, axis=1)[:, k - 1] / k - below[:, k])
