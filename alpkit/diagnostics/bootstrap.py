"""Bootstrap that resamples whole prompts or responses, because tokens within them are dependent.

Every function takes its seed and draws in a fixed order, so an interval is a function of its input.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Int

_CELLS: Final = 1 << 21
"""Numbers resampled at a time: 16 MB, whatever the number of resamples."""


class Interval(NamedTuple):
    """A 90 % percentile interval; NaN where there was nothing to resample."""

    low: float
    high: float


def cluster_index(cluster: Int[np.ndarray, " item"] | None, n: int) -> Int[np.ndarray, " item"]:
    """Number the clusters from 0 in the order of their ids; without clusters each item is its own."""
    if cluster is None:
        return np.arange(n)
    return np.asarray(np.unique(np.asarray(cluster), return_inverse=True)[1])


def cluster_counts(clusters: int, n_boot: int, seed: int) -> Iterator[Int[np.ndarray, " cluster"]]:
    """Count how often each cluster is drawn, in each of `n_boot` resamples."""
    rng = np.random.default_rng(seed)
    for _ in range(n_boot):
        yield np.bincount(rng.integers(0, clusters, clusters), minlength=clusters)


def resampled_tails(
    ordered: Float[np.ndarray, " item"],
    owner: Int[np.ndarray, " item"],
    n_top: int,
    *,
    clusters: int,
    n_boot: int,
    seed: int,
) -> Iterator[Float[np.ndarray, "some top"]]:
    """Yield the `n_top` largest values of each resample, descending, a few resamples at a time.

    `ordered` descends and `owner` names each item's cluster, from 0 to `clusters` - 1. It may hold the
    largest items alone: four times `n_top` are almost always enough. A resample with fewer than
    `n_top` items is a row of NaN.
    """
    head = min(ordered.size, 4 * n_top)  # the whole array where a resample needs it
    rows = max(1, _CELLS // n_top)
    draws = cluster_counts(clusters, n_boot, seed)
    for first in range(0, n_boot, rows):
        tails = np.full((min(rows, n_boot - first), n_top), np.nan)
        for row, counts in zip(tails, draws):
            times = counts[owner[:head]]
            if times.sum() < n_top:
                times = counts[owner]
            values = np.repeat(ordered[: times.size], times)[:n_top]
            if values.size == n_top:
                row[:] = values
        yield tails


def tail_interval(
    ordered: Float[np.ndarray, " item"],
    owner: Int[np.ndarray, " item"],
    n_tail: int,
    estimate: Callable[[np.ndarray], np.ndarray],
    *,
    clusters: int,
    n_boot: int,
    seed: int,
) -> Interval:
    """Give a tail estimator's 90 % interval, from resamples of whole clusters.

    `estimate` maps rows of the `n_tail` + 1 largest values, descending, to one number each; rows
    without a finite one (no spread, too few items) are left out. One cluster gives NaN.
    """
    if not n_boot or clusters < 2:
        return Interval(math.nan, math.nan)
    tails = resampled_tails(ordered, owner, n_tail + 1, clusters=clusters, n_boot=n_boot, seed=seed)
    values = np.concatenate([estimate(rows) for rows in tails])
    values = values[np.isfinite(values)]
    if not values.size:
        return Interval(math.nan, math.nan)
    low, high = np.quantile(values, [0.05, 0.95])
    return Interval(float(low), float(high))
