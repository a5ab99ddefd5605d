"""Find level shifts in a finished run's metric: where it settled elsewhere, and by how much.

Looks at the whole series, which a streaming detector (`spikes`) must not. A drift is not a shift, but
is cut into several.

    level_shifts(steps["kl/k3"].to_numpy())
"""

import math
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

_SEGMENT: Final = 16
"""Fewest steps of a level: what a spike detector asks for as history."""
_PENALTY: Final = 3.0
"""Cost of a shift in units of the long-run variance times log n; docs/tails.md shows the calibration."""
_WINDOW: Final = 11
_SPIKE: Final = 3.0
_MAD_TO_SD: Final = 1.4826
_FLOOR: Final = 0.05 * _MAD_TO_SD
"""Smallest noise in log units, as for spikes, so that a constant metric does not shift on rounding."""


class LevelShift(NamedTuple):
    """One change of level."""

    at: int
    """Index into the values where the new level starts."""
    before: float
    """Geometric mean of the metric over the level that ends here, spikes cut."""
    after: float
    change: float
    """log(after / before), nats."""
    size: float
    """|change| in standard deviations of the metric's log around its level."""


class LevelShifts(list[LevelShift]):
    """The level shifts of a series, oldest first, and whether it could show any."""

    status: Literal["ok", "short", "nonfinite"]
    """short: fewer than 32 values with a finite log; nonfinite: that, because values have no log."""

    def __init__(
        self, shifts: Iterable[LevelShift], status: Literal["ok", "short", "nonfinite"]
    ) -> None:
        super().__init__(shifts)
        self.status = status


class _Noise(NamedTuple):
    sd: float
    long_run_variance: float


def level_shifts(values: Float[np.ndarray, " step"]) -> LevelShifts:
    """Find changes of level in the log of a positive metric, by penalised least squares (PELT).

    Parameters
    ----------
    values : the metric itself, one per step, oldest first. Values without a finite log (0, negative,
        NaN, infinite) are skipped; indices count them.

    Notes
    -----
    Spikes are cut to 3 standard deviations around a running median first. The penalty is 3 log n times
    the long-run variance of an AR(1) fitted to the differences, which a few shifts hardly move: of
    stationary series of 500 steps it triggers on under 1 % (white, AR(0.5), t3) and 8 % (AR(0.9)), of 60
    steps on 3 % and 13 % of the autocorrelated ones (docs/tails.md).

    References
    ----------
    Killick, Fearnhead & Eckley 2012, Optimal detection of changepoints with a linear cost.
    Truong, Oudre & Vayatis 2020, Selective review of offline change point detection (ruptures).
    """
    series = np.asarray(values, np.float64)
    usable = np.flatnonzero(np.isfinite(series) & (series > 0))
    if usable.size < 2 * _SEGMENT:
        skipped = series.size - usable.size
        return LevelShifts([], "nonfinite" if skipped and series.size >= 2 * _SEGMENT else "short")
    # Here, as the two take half a second that a training run should not pay.
    from ruptures import KernelCPD  # type: ignore[import-untyped]
    from scipy.ndimage import median_filter

    log_values = np.log(series[usable])
    noise = _noise(log_values)
    base = median_filter(log_values, _WINDOW, mode="nearest")
    cut = base + np.clip(log_values - base, -_SPIKE * noise.sd, _SPIKE * noise.sd)
    search = KernelCPD(kernel="linear", min_size=_SEGMENT).fit(cut[:, None])
    penalty = _PENALTY * noise.long_run_variance * math.log(cut.size)
    starts = search.predict(pen=penalty)[:-1]
    means = [float(part.mean()) for part in np.split(cut, starts)]
    return LevelShifts(
        (
            LevelShift(
                int(usable[start]),
                math.exp(before),
                math.exp(after),
                after - before,
                abs(after - before) / noise.sd,
            )
            for start, before, after in zip(starts, means, means[1:])
        ),
        "ok",
    )


def _noise(log_values: np.ndarray) -> _Noise:
    """Estimate the spread around the level and the long-run variance from differences, which a shift hardly touches."""
    steps = np.diff(log_values)
    scale = _MAD_TO_SD * float(np.median(np.abs(steps - np.median(steps))))
    steps = np.clip(steps, -4 * scale, 4 * scale)  # spikes
    steps = steps - steps.mean()
    variance = float(np.mean(steps**2))
    # Differences of an AR(1) have variance 2 v (1 - phi) and correlation -(1 - phi)/2 at lag 1.
    lagged = float(np.mean(steps[1:] * steps[:-1]))
    phi = min(max(1 + 2 * lagged / variance, 0.0), 0.95) if variance > 0 else 0.0
    own = max(variance / (2 * (1 - phi)), _FLOOR**2)
    return _Noise(math.sqrt(own), own * (1 + phi) / (1 - phi))
