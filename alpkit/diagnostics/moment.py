"""The moment estimator of the tail shape: like Hill's, but right for bounded and light tails too.

Hill is positive by construction; this one goes to 0 for a log-normal and below it for ratios with an
upper end, at the price of a larger variance.

    moment_estimator(logp_train - logp_rollout, 400, cluster=prompt)
"""

import math

import numpy as np
from jaxtyping import Float, Int

from alpkit.diagnostics.bootstrap import tail_interval
from alpkit.diagnostics.tailfit import (
    NO_FIT,
    Z90,
    Side,
    TailFit,
    judged,
    no_fit,
    ordered,
    tail_start,
    tail_status,
)


def moment_estimator(
    log_ratio: Float[np.ndarray, " item"],
    k: int,
    *,
    side: Side = "right",
    cluster: Int[np.ndarray, " item"] | None = None,
    n_boot: int = 400,
    seed: int = 0,
) -> TailFit:
    """Estimate the tail shape from the k largest ratios (or inverses), by Dekkers, Einmahl and de Haan.

    Parameters
    ----------
    log_ratio : d, nats; padding removed.
    k : items in the tail.
    side : right for x = exp(d), left for 1/x.
    cluster, n_boot, seed : as for `hill`.

    Returns
    -------
    TailFit : `estimate` = m1 + 1 - 1/(2 (1 - m1^2/m2)), m_j = mean((d_(i) - d_(k+1))^j), i <= k: any
        sign; `low`, `high` = 90 % percentile interval over clusters, or the i.i.d. asymptotic one.

    References
    ----------
    Dekkers, Einmahl & de Haan 1989, A moment estimator for the index of an extreme-value
    distribution, Annals of Statistics 17(4).
    """
    values, owner, clusters = ordered(log_ratio, side, cluster)
    n, start = values.size, tail_start(values, k)
    status = tail_status(values, k, start)
    if status in NO_FIT:
        return no_fit(status, n, k)
    estimate = float(_rows(values[None, : k + 1])[0])
    if math.isnan(estimate):  # a clamp made the whole tail one value
        return no_fit("saturated", n, k)
    margin = Z90 * math.sqrt(_variance(estimate) / k)
    low, high = estimate - margin, estimate + margin
    if cluster is not None:
        low, high = tail_interval(
            values, owner, k, _rows, clusters=clusters, n_boot=n_boot, seed=seed
        )
    status = judged(status, estimate, n)
    return TailFit(estimate, low, high, n, k, start, math.nan, status)


def _rows(tails: np.ndarray) -> np.ndarray:
    """Compute the estimate of each row of descending values, threshold last; NaN where all excesses are equal."""
    excess = tails[:, :-1] - tails[:, -1:]
    first, second = excess.mean(axis=1), (excess**2).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = 1 - first**2 / second
        spread = np.where(spread > 1e-12, spread, np.nan)  # below it nothing but rounding is left
        return np.asarray(first + 1 - 0.5 / spread)


def _variance(shape: float) -> float:
    """Give the estimate's asymptotic variance, times k (Dekkers, Einmahl & de Haan 1989, corollary 3.1)."""
    if shape >= 0:
        return 1 + shape**2
    bulk = (1 - shape) ** 2 * (1 - 2 * shape) * (1 - shape + 6 * shape**2)
    return bulk / ((1 - 3 * shape) * (1 - 4 * shape))
