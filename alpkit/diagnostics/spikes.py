"""Streaming spike detection: does this step's value stand out from the steps before it?

A robust z on the log of a positive metric, against a trailing window only: a step is judged by its
past, so a verdict never changes when more steps arrive. Not here: what made a spike (analysis).
"""

import math
from collections import deque
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import numpy as np

_MAD_TO_SD: Final = 1.4826


class Spike(NamedTuple):
    """Verdict on one value."""

    z: float
    """Robust standard deviations above the window's median; NaN unless status is ok."""
    is_spike: bool
    status: Literal["ok", "short", "nonfinite"]
    """short: too little history; nonfinite: the value has no finite log (0, negative, inf, NaN)."""


class SpikeDetector:
    """Judges a metric's values one by one; feed one detector per metric.

    Parameters
    ----------
    window : steps of history that count.
    minimum : history below which there is no verdict.
    limit : z above which a step is a spike.
    floor : smallest MAD in log units, so that a constant metric does not spike on rounding.
    history : logs of past values, oldest first, to continue after a resume.

    Notes
    -----
    z = (log v - median) / (1.4826 max(MAD, floor)). Spikes enter the history (the median bears
    them); values without a finite log do not.
    """

    def __init__(
        self,
        *,
        window: int = 50,
        minimum: int = 16,
        limit: float = 4.0,
        floor: float = 0.05,
        history: Iterable[float] = (),
    ) -> None:
        self._minimum, self._limit, self._floor = minimum, limit, floor
        self._history = deque(history, maxlen=window)

    @property
    def history(self) -> list[float]:
        """Logs of the values in the window: what a checkpoint has to keep."""
        return list(self._history)

    def update(self, value: float) -> Spike:
        """Judge `value` (the metric itself, not its log) against its past, then remember it."""
        if not (math.isfinite(value) and value > 0):
            return Spike(math.nan, False, "nonfinite")
        log_value, past = math.log(value), np.array(self._history)
        self._history.append(log_value)
        if past.size < self._minimum:
            return Spike(math.nan, False, "short")
        median = float(np.median(past))
        mad = max(float(np.median(np.abs(past - median))), self._floor)
        z = (log_value - median) / (_MAD_TO_SD * mad)
        return Spike(z, z > self._limit, "ok")
