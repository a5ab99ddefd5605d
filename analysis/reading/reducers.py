"""Reduce a stream of log ratios, in bounded memory, to its ends, a sample and a survival curve.

Exact where it matters: the kept ends are the data's own, the sample is everything while it fits, and
the curve counts every item. What was seen in which order makes no difference.
"""

from typing import Final, NamedTuple

import numpy as np

from alpkit.diagnostics.tails import Side

RESAMPLES: Final = 200
_SHIFT: Final = 19  # a float32's exponent and four bits of its mantissa: 16 bins an octave
_SMALLEST, _BEYOND = 2.0**-20, 2.0**14
_FIRST: Final = int(np.float32(_SMALLEST).view(np.uint32)) >> _SHIFT
BINS: Final = (int(np.float32(_BEYOND).view(np.uint32)) >> _SHIFT) - _FIRST
EDGES: Final = (
    (np.arange(_FIRST, _FIRST + BINS, dtype=np.uint32) << np.uint32(_SHIFT))
    .view(np.float32)
    .astype(np.float64)
)
"""Log sizes (nats) at which a `Survival` knows the share beyond: 2^-20 to 2^14, 16 an octave."""


class Top(NamedTuple):
    """The largest items, descending, and the cluster of each."""

    values: np.ndarray
    cluster: np.ndarray


class Largest:
    """Keeps the `size` largest values of a stream, with their clusters."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: list[np.ndarray] = []
        self._clusters: list[np.ndarray] = []
        self._held = 0
        self._least = -np.inf

    def add(self, values: np.ndarray, cluster: np.ndarray) -> None:
        """Take in items; those that can no longer be among the largest are forgotten at once."""
        high = values > self._least
        self._values.append(values[high])
        self._clusters.append(cluster[high])
        self._held += int(np.count_nonzero(high))
        if self._held > 2 * self._size:
            self._shrink()

    def top(self) -> Top:
        """Give the values that were kept, descending."""
        self._shrink()
        if not self._values:
            return Top(np.empty(0), np.empty(0, np.int64))
        order = np.argsort(-self._values[0], kind="stable")
        return Top(self._values[0][order], self._clusters[0][order])

    def _shrink(self) -> None:
        if not self._values:
            return
        values, cluster = np.concatenate(self._values), np.concatenate(self._clusters)
        if values.size > self._size:
            kept = np.sort(np.argpartition(-values, self._size - 1)[: self._size])
            values, cluster = values[kept], cluster[kept]
            self._least = float(values.min())
        self._values, self._clusters, self._held = [values], [cluster], values.size


class Sample:
    """A uniform sample of at most `size` rows; every row while they fit."""

    def __init__(self, size: int, width: int) -> None:
        self._size = size
        self._rows: list[np.ndarray] = [np.empty((0, width))]
        self._ranks: list[np.ndarray] = [np.empty(0)]
        self._held = 0
        self._limit = np.inf

    def add(self, rows: np.ndarray, key: int) -> None:
        """Take in rows; `key` names the batch, so that its draws are its own whatever came before."""
        rank = np.random.default_rng([0x73616D706C65, key]).random(len(rows))
        low = rank < self._limit
        self._rows.append(rows[low])
        self._ranks.append(rank[low])
        self._held += int(np.count_nonzero(low))
        if self._held > 2 * self._size:
            self._shrink()

    def rows(self) -> np.ndarray:
        """Give the sample, in order of arrival."""
        self._shrink()
        return self._rows[0]

    def _shrink(self) -> None:
        rows, rank = np.concatenate(self._rows), np.concatenate(self._ranks)
        if len(rows) > self._size:
            kept = np.sort(np.argpartition(rank, self._size - 1)[: self._size])
            rows, rank = rows[kept], rank[kept]
            self._limit = float(rank.max())
        self._rows, self._ranks, self._held = [rows], [rank], len(rows)


class Curve(NamedTuple):
    """Share of items beyond each of `log_size`, with the 90 % band of the bootstrap over clusters."""

    log_size: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Survival:
    """Counts items beyond every edge, and the same in `RESAMPLES` resamples of whole clusters.

    A cluster enters a resample Poisson(1) times: the bootstrap that a stream allows, as no draw needs to
    know how many clusters will come (Chamandy et al. 2012, Estimating uncertainty for massive data
    streams). Draws belong to the batch, not to the arm, so arms that share prompts share them.
    """

    def __init__(self) -> None:
        self._beyond = {side: np.zeros(BINS + 1) for side in ("right", "left")}
        self._resampled = {side: np.zeros((RESAMPLES, BINS + 1)) for side in ("right", "left")}
        self._clusters = 0

    def add(self, log_ratio: np.ndarray, cluster: np.ndarray, clusters: int, key: int) -> None:
        """Take in a batch; its clusters are not met again in another batch."""
        draws = np.random.default_rng([0x626F6F74, key]).poisson(1.0, (RESAMPLES, clusters))
        weight = draws.astype(np.float32)
        self._clusters += clusters
        for side, values in (("right", log_ratio), ("left", -log_ratio)):
            place = cluster * (BINS + 1) + bin_of(values)
            counts = np.bincount(place, minlength=clusters * (BINS + 1)).reshape(clusters, BINS + 1)
            used = np.flatnonzero(counts.any(axis=0))
            self._beyond[side] += counts.sum(axis=0)
            # Counts of one batch are exact in float32, and half the work.
            self._resampled[side][:, used] += weight @ counts[:, used].astype(np.float32)

    def curve(self, side: Side) -> Curve:
        """Give P(ratio > z) over log z (left: of 1/ratio); a resample without any item beyond counts as 0."""
        share = survival(self._beyond[side])
        if self._clusters < 2:
            nothing = np.full(BINS, np.nan)
            return Curve(EDGES, share, nothing, nothing)
        mass = self._resampled[side]
        curves = survival(mass[mass.sum(axis=1) > 0])
        low, high = np.quantile(curves, (0.05, 0.95), axis=0)
        return Curve(EDGES, share, low, high)


def bin_of(values: np.ndarray) -> np.ndarray:
    """Count the `EDGES` that each value exceeds."""
    positive = np.clip(values, _SMALLEST, _BEYOND).astype(np.float32)
    # A value on an edge is not beyond it: one step down in the last place puts it into the bin below.
    place = (positive.view(np.uint32) - np.uint32(1)) >> np.uint32(_SHIFT)
    return np.asarray(np.minimum(place.astype(np.int64) - _FIRST + 1, BINS))


def survival(counts: np.ndarray) -> np.ndarray:
    """Give the share of items beyond each edge, from the counts between edges, along the last axis."""
    beyond = counts[..., ::-1].cumsum(axis=-1)[..., ::-1]
    return np.asarray(beyond[..., 1:] / beyond[..., :1])
