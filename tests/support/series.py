"""Stationary log-metrics with unit variance, for the detectors' false alarms."""

import numpy as np
from scipy.signal import lfilter


def stationary(seed: int, steps: int, *, phi: float = 0.0, heavy: bool = False) -> np.ndarray:
    """AR(1) with coefficient `phi` (0: white), normal or scaled Student t3 shocks."""
    rng = np.random.default_rng([seed, steps])
    burn = 100
    shocks = rng.standard_normal(steps + burn)
    if heavy:
        shocks = rng.standard_t(3, steps + burn) / np.sqrt(3)
    series = lfilter([np.sqrt(1 - phi**2)], [1, -phi], shocks)
    return np.asarray(series[burn:])
