"""Summarise any number of log ratios in one vector; summaries of parts add up to the summary of all.

One flat float64 vector, `SIZE` long, whatever the number of items: a histogram uniform in
asinh(d / 1e-6) with 2,048 bins a side (0.93 % wide from 1e-5 to 100 nats), the exact `TOP` largest
values of either side, sums of powers, and log sums of powers of the ratio. Quantiles, CCDF, Hill, k-hat,
ESS and the KL family follow. `alpkit.objective.sketch_state` makes the same vector on the device.

    sketch = RatioSketch().add(first).add(second); sketch.quantile(0.98); sketch.khat()
"""

import math
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from alpkit.diagnostics.ess import ess_of_sums
from alpkit.diagnostics.overflow import K3_CAP, exp_capped, expm1_capped, k3_terms
from alpkit.diagnostics.tails import SATURATION, Side, TailFit, hill_of_top, khat_of_top, tail_size

BINS: Final = 2048
"""Bins a side."""
TOP: Final = 4096
"""Largest values kept exactly on either side; k-hat's tail has as many items up to n = 1.8 million."""
UNIT: Final = 1e-6
"""Log ratio (nats) below which the bins become linear: float32 log-probs differ by no less."""
REACH: Final = 100.0
"""Log ratio (nats) where the last bin starts to swallow everything; the exact top goes on."""
STEP: Final = math.asinh(REACH / UNIT) / BINS
SUMS: Final = ("n", "zero", "saturated", "nonfinite", "d", "d2", "d3", "d4", "k3")
POWERS: Final = (1.0, 2.0, -1.0, -2.0)
"""Powers of the ratio whose sums are kept, as logs."""
SIZE: Final = 2 * BINS + 2 * TOP + len(SUMS) + len(POWERS)
_BAND: Final = np.array([math.log(2.0)])
_CHUNK: Final = 1 << 16  # fits a core's cache
_QUANTILES: Final = {
    "p01": 0.01,
    "p02": 0.02,
    "p50": 0.5,
    "p98": 0.98,
    "p99": 0.99,
    "p999": 0.999,
}


class Parts(NamedTuple):
    """Views of the vector's parts; side 0 is the ratio's inverse (-d), side 1 the ratio (d)."""

    counts: np.ndarray
    top: np.ndarray
    sums: np.ndarray
    log_sums: np.ndarray


def split(state: Float[np.ndarray, " state"]) -> Parts:
    """Split one state into views of its parts."""
    counts, top, sums, logs = np.split(
        state, np.cumsum([2 * BINS, 2 * TOP, len(SUMS)])
    )  # copies nothing
    return Parts(counts.reshape(2, BINS), top.reshape(2, TOP), sums, logs)


def empty_state() -> Float[np.ndarray, " state"]:
    """Make the state of no items."""
    state = np.zeros(SIZE)
    parts = split(state)
    parts.top[:] = parts.log_sums[:] = -np.inf
    return state


class RatioSketch:
    """Statistics of a stream of log ratios; items may come in any order, in any parts.

    `state` as written by `empty_state` or `alpkit.objective.sketch_state`. Items that are NaN or infinite
    are counted (`nonfinite`) and left out of everything else.
    """

    def __init__(self, state: Float[np.ndarray, " state"] | None = None) -> None:
        self.state = empty_state() if state is None else np.asarray(state, np.float64)
        if self.state.shape != (SIZE,):
            raise ValueError(f"a sketch's state has {SIZE} numbers, got {self.state.shape}")
        self._parts = split(self.state)

    def add(self, log_ratio: Float[np.ndarray, "*shape"]) -> "RatioSketch":
        """Take in log ratios, nats, in place; returns the sketch itself."""
        flat = np.ravel(log_ratio)
        for start in range(0, flat.size, _CHUNK):
            self._add_chunk(flat[start : start + _CHUNK].astype(np.float64))
        return self

    def merge(self, *others: "RatioSketch") -> "RatioSketch":
        """Make a sketch of the items of all."""
        merged = RatioSketch(self.state.copy())
        for other in others:
            mine, theirs = merged._parts, other._parts
            mine.counts[:] += theirs.counts
            mine.sums[:] += theirs.sums
            mine.log_sums[:] = np.logaddexp(mine.log_sums, theirs.log_sums)
            for side in (0, 1):
                merged._keep_top(side, theirs.top[side])
        return merged

    @property
    def sums(self) -> dict[str, float]:
        """n (finite items), zero (d = 0), saturated (|d| >= 20), nonfinite; sums of d, d^2..d^4 and k3."""
        return dict(zip(SUMS, self._parts.sums.tolist()))

    @property
    def n(self) -> int:
        """Number of finite items."""
        return int(self._parts.sums[0])

    def top(self, side: Side) -> Float[np.ndarray, " top"]:
        """Give the largest d (right) or -d (left), descending and exact; at most `TOP`."""
        kept: np.ndarray = self._parts.top[int(side == "right")][: self.n]
        return kept

    def quantile(self, q: float) -> float:
        """Give a quantile of d, interpolating ranks: exact within `TOP` items of an end, else to a bin's width."""
        if not self.n:
            return math.nan
        rank = q * (self.n - 1)
        low = math.floor(rank)
        below, above = self._order_statistic(low), self._order_statistic(min(low + 1, self.n - 1))
        return below + (rank - low) * (above - below)

    def survival(
        self, log_size: Float[np.ndarray, " grid"], side: Side
    ) -> Float[np.ndarray, " grid"]:
        """Give the share of items whose ratio (left: inverse) exceeds exp(log_size); exact among the `TOP` largest."""
        top = self.top(side)[::-1]
        exact = top.size - np.searchsorted(top, log_size, side="right")
        edges, counts = _axis(self._parts.counts, self.sums["zero"])
        if side == "left":
            edges, counts = -edges[::-1], counts[::-1]
        above = np.r_[counts[::-1].cumsum()[::-1], 0.0]
        binned = np.interp(log_size, edges, above)
        known = top.size == self.n or log_size >= (top[0] if top.size else -math.inf)
        return np.where(known, exact, binned) / max(self.n, 1)

    def hill(self, k: int, side: Side = "right") -> TailFit:
        """Estimate the tail by Hill on the k largest, exact for k < `TOP`; the interval takes items as independent."""
        return hill_of_top(self.top(side), k, n=self.n)

    def khat(self, side: Side = "right") -> TailFit:
        """Estimate Pareto k-hat, without interval; its tail has at most `TOP` - 1 items."""
        return khat_of_top(self.top(side), n=self.n, n_tail=min(tail_size(self.n), TOP - 1))

    def ess(self) -> float:
        """Effective sample size (sum x)^2 / (n sum x^2), a share."""
        first, second = self._parts.log_sums[:2]
        return ess_of_sums(first, second, self.n)

    def chi2(self) -> float:
        """Chi-squared, mean(x^2) - 1; at most the largest float64."""
        return expm1_capped(self._parts.log_sums[1] - math.log(self.n)) if self.n else math.nan

    def k3(self) -> float:
        """K3, mean(x - 1 - d), in nats; from the log sum where a ratio is beyond `K3_CAP`."""
        if not self.n:
            return math.nan
        if self.top("right")[0] >= K3_CAP:
            return exp_capped(self._parts.log_sums[0] - math.log(self.n))
        return self.sums["k3"] / self.n

    def top_share(self, share: float = 0.01) -> float:
        """Give the part of the ratios' sum that the largest `share` of them makes.

        Exact for the `TOP` largest, which are kept; for more, to the width of the sketch's bins.
        """
        if not self.n:
            return math.nan
        many, top = math.ceil(share * self.n), self.top("right")
        held = [top[:many]]
        if many > top.size:
            held.append(self._binned_largest(many))
        largest = logsumexp(np.concatenate(held))
        return math.exp(min(float(largest) - self._parts.log_sums[0], 0.0))

    def summary(self) -> dict[str, float]:
        """Give the step's metrics (`alpkit.metrics.RATIO_STATS`), as far as they can be computed.

        Of the log ratio: mean, std, min, max, quantiles, nats; of the ratio: ess, chi2, top1_share, tails.
        A flat, short or saturated tail has no hill and khat keys; without items `nonfinite` is the only key.
        """
        sums = self.sums
        if not self.n:
            return {"nonfinite": sums["nonfinite"]}
        mean = sums["d"] / self.n
        found = {
            "mean": mean,
            "std": math.sqrt(max(sums["d2"] / self.n - mean**2, 0.0)),
            "min": -float(self.top("left")[0]),
            "max": float(self.top("right")[0]),
            **{name: self.quantile(q) for name, q in _QUANTILES.items()},
            "ess": self.ess(),
            "chi2": self.chi2(),
            "top1_share": self.top_share(),
            "saturated": sums["saturated"] / self.n,
            "nonfinite": sums["nonfinite"],
            "zero_share": sums["zero"] / self.n,
            "below_band": float(self.survival(_BAND, "left")[0]),
            "above_band": float(self.survival(_BAND, "right")[0]),
            "k3": self.k3(),
        }
        sides: tuple[Side, Side] = ("right", "left")
        for side in sides:
            khat = self.khat(side)
            if khat.status in ("ok", "high"):
                found[f"hill_{side}"] = self.hill(khat.n_tail, side).estimate
                found[f"khat_{side}"] = khat.estimate
        return found

    def _add_chunk(self, d: np.ndarray) -> None:
        parts = self._parts
        finite = np.isfinite(d)
        if not finite.all():
            parts.sums[3] += d.size - np.count_nonzero(finite)
            d = d[finite]
        if not d.size:
            return
        size = np.abs(d)
        scaled = size / UNIT
        # asinh in terms of log, which numpy computes ten times as fast.
        place = np.log(scaled + np.sqrt(scaled * scaled + 1)) / STEP
        index = np.minimum(place, BINS - 1).astype(np.intp)
        index[d > 0] += BINS
        counted = np.bincount(index, minlength=2 * BINS).reshape(2, BINS)
        zero = np.count_nonzero(size == 0)
        counted[0, 0] -= zero
        parts.counts[:] += counted
        saturated = np.count_nonzero(size >= SATURATION)
        square = d * d
        moments = (d.sum(), square.sum(), square @ d, square @ square, k3_terms(d).sum())
        parts.sums[:] += (d.size, zero, saturated, 0, *moments)
        parts.log_sums[:] = np.logaddexp(parts.log_sums, _log_power_sums(d))
        self._keep_top(0, -d)
        self._keep_top(1, d)

    def _keep_top(self, side: int, values: np.ndarray) -> None:
        kept = self._parts.top[side]
        values = values[values > kept[-1]]
        if values.size > TOP:
            values = np.partition(values, values.size - TOP)[-TOP:]
        if values.size:
            kept[:] = np.sort(np.r_[kept, values])[: -TOP - 1 : -1][:TOP]

    def _order_statistic(self, rank: int) -> float:
        """Give the item of 0-based ascending `rank`: exact within `TOP` of an end, else inside its bin."""
        left, right = self.top("left"), self.top("right")
        if rank < left.size:
            return -float(left[rank])
        if self.n - 1 - rank < right.size:
            return float(right[self.n - 1 - rank])
        edges, counts = _axis(self._parts.counts, self.sums["zero"])
        ends = counts.cumsum()
        place = int(np.searchsorted(ends, rank, side="right"))
        inside = (rank + 0.5 - (ends[place] - counts[place])) / counts[place]
        low, high = edges[place], edges[place + 1]
        # Bins are even in asinh, so their insides are too.
        return UNIT * math.sinh(
            math.asinh(low / UNIT) * (1 - inside) + math.asinh(high / UNIT) * inside
        )

    def _binned_largest(self, many: int) -> np.ndarray:
        """Give the logs of the binned ratios below the exact top, up to the `many`-th largest."""
        edges, counts = _axis(self._parts.counts, self.sums["zero"])
        above = np.r_[counts[::-1].cumsum()[::-1], 0.0]
        taken = np.clip(np.minimum(above[:-1], many) - np.maximum(above[1:], TOP), 0, None)
        used = taken > 0
        centre = (edges[:-1] + edges[1:]) / 2
        return np.asarray(centre[used] + np.log(taken[used]))


def _log_power_sums(d: np.ndarray) -> list[float]:
    """Compute log sum exp(p d) for every p in POWERS."""
    if np.abs(d).max() > 150:
        return [float(logsumexp(power * d)) for power in POWERS]
    ratio = np.exp(d)
    inverse = 1 / ratio
    sums = (ratio.sum(), ratio @ ratio, inverse.sum(), inverse @ inverse)
    return [math.log(value) for value in sums]


def _axis(counts: np.ndarray, zero: float) -> tuple[np.ndarray, np.ndarray]:
    """Give edges (nats, ascending) and counts of all bins from the most negative to the most positive.

    The exact zeros are a bin of width 0 in the middle.
    """
    positive = UNIT * np.sinh(np.arange(BINS + 1) * STEP)
    edges = np.r_[-positive[::-1], positive]
    return edges, np.r_[counts[0][::-1], zero, counts[1]]
