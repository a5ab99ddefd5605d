"""Detect spikes in a stream: values that stand out from the steps before them.

A robust z on the log of a positive metric, against a trailing window only: a step is judged by its
past, so a verdict never changes when more steps arrive. Not here: what made a spike (`attribution`),
levels that changed for good (`shifts`).
"""

import math
from collections import deque
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

_MAD_TO_SD: Final = 1.4826


class Spike(NamedTuple):
    """The verdict on one value."""

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
        """Logs of the values in the window, to be kept in a checkpoint."""
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


class SpikeSummary(NamedTuple):
    """Spikes of one metric over one run; NaN where `status` says why."""

    maximum: float
    """Largest finite value."""
    p99_over_p50: float
    """P99 / P50 over steps: heavy upper tail of the metric itself; 1 for a constant."""
    rate_3: float
    """Share of judged steps with z > 3."""
    rate_4: float
    rate_6: float
    steps: int
    """Values given."""
    judged: int
    """Values that had enough history for a z."""
    status: Literal["ok", "short", "nonfinite"]
    """short: no step was judged (maximum and p99_over_p50 may still stand); nonfinite: some value has
    no finite log, and the numbers rest on the others."""


def spike_summary(values: Float[np.ndarray, " step"]) -> SpikeSummary:
    """Summarise a run's spikes: maximum, P99/P50 and spike rates of a positive metric.

    `values`: the metric itself, one per step, oldest first.
    """
    series = np.asarray(values, np.float64)
    detector = SpikeDetector()
    verdicts = [detector.update(float(value)) for value in series]
    z = np.array([verdict.z for verdict in verdicts if verdict.status == "ok"])
    usable = series[np.isfinite(series) & (series > 0)]
    p50, p99 = np.quantile(usable, [0.5, 0.99]) if usable.size else (math.nan, math.nan)
    rate_3, rate_4, rate_6 = (
        float(np.mean(z > limit)) if z.size else math.nan for limit in (3, 4, 6)
    )
    status: Literal["ok", "short", "nonfinite"] = "ok" if z.size else "short"
    return SpikeSummary(
        float(usable.max()) if usable.size else math.nan,
        float(p99 / p50),
        rate_3,
        rate_4,
        rate_6,
        series.size,
        z.size,
        "nonfinite" if usable.size < series.size else status,
    )
