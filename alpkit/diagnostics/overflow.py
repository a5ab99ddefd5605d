"""Keep exp of log ratios within float64: where it would overflow, the largest number is reported.

The one home of the guard on K3 and of the cap on whatever is formed in log space. Torch callers take
`K3_CAP` from here.
"""

import math
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

LARGEST: Final = float(np.finfo(np.float64).max)
LOG_LARGEST: Final = math.log(LARGEST)
K3_CAP: Final = 500.0
"""Log ratio (nats) up to which exp is summed as it is, far below overflow even over 1e80 items."""


def exp_capped(log_value: float) -> float:
    """Compute exp, giving the largest float64 instead of an overflow; NaN stays NaN."""
    return LARGEST if log_value >= LOG_LARGEST else math.exp(log_value)


def expm1_capped(log_value: float) -> float:
    """Compute expm1, giving the largest float64 instead of an overflow; NaN stays NaN."""
    return LARGEST if log_value >= LOG_LARGEST else math.expm1(log_value)


def log_mean_exp(values: Float[np.ndarray, " item"]) -> float:
    """Compute the log of the mean of exp(values)."""
    return float(logsumexp(values)) - math.log(values.size)


def k3_terms(log_ratio: Float[np.ndarray, " item"]) -> Float[np.ndarray, " item"]:
    """Compute each item's exp(d) - 1 - d, accurately for tiny d; d is capped at `K3_CAP` inside exp."""
    return np.asarray(np.expm1(np.minimum(log_ratio, K3_CAP)) - log_ratio)


def mean_k3(log_ratio: Float[np.ndarray, " item"]) -> float:
    """Compute the mean of exp(d) - 1 - d, from the log sum where a ratio is beyond `K3_CAP`."""
    if log_ratio.max() < K3_CAP:
        return float(np.mean(k3_terms(log_ratio)))
    return exp_capped(log_mean_exp(log_ratio))
