"""Effective sample size, always as a share: how many equally weighted items would do as well.

One formula, (sum x)^2 / (n sum x^2), in log space.

    ess(logp_train - logp_rollout)
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp


def ess(log_weight: Float[np.ndarray, " item"]) -> float:
    """Compute the effective sample size of log weights, as a share of the items.

    -inf is a weight of 0, which counts as an item. 0 where every weight is 0; NaN without items, and
    where a weight is NaN or infinite.
    """
    if not log_weight.size or not (log_weight < math.inf).all():
        return math.nan
    if log_weight.max() == -math.inf:
        return 0.0
    log_sum, log_squares = float(logsumexp(log_weight)), float(logsumexp(2 * log_weight))
    return ess_of_sums(log_sum, log_squares, log_weight.size)


def ess_of_sums(log_sum: float, log_squares: float, n: int) -> float:
    """Compute the effective sample size from log(sum x) and log(sum x^2) of n items, as a share."""
    return math.exp(min(2 * log_sum - log_squares - math.log(n), 0.0)) if n else math.nan
