"""Bootstrap by cluster: whole prompts or responses are drawn, as their tokens are dependent.

Every function takes its seed and draws in a fixed order, so an interval is a function of its input.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int


def cluster_index(cluster: Int[np.ndarray, " item"] | None, n: int) -> Int[np.ndarray, " item"]:
    """Clusters numbered from 0 in order of their ids; without clusters each item is its own."""
    if cluster is None:
        return np.arange(n)
    return np.asarray(np.unique(np.asarray(cluster), return_inverse=True)[1])


def cluster_counts(clusters: int, n_boot: int, seed: int) -> Iterator[Int[np.ndarray, " cluster"]]:
    """How often each cluster is drawn, for each of `n_boot` resamples of all clusters."""
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
) -> Float[np.ndarray, "boot top"]:
    """The `n_top` largest values of each resample, descending; NaN rows where it has fewer.

    `ordered` descends and `owner` names each item's cluster, from 0 to `clusters` - 1. It may hold the
    largest items alone: four times `n_top` are almost always enough.
    """
    tails = np.full((n_boot, n_top), np.nan)
    head = min(ordered.size, 4 * n_top)  # the whole array where a resample needs it
    for row, counts in zip(tails, cluster_counts(clusters, n_boot, seed)):
        times = counts[owner[:head]]
        if times.sum() < n_top:
            times = counts[owner]
        values = np.repeat(ordered[: times.size], times)[:n_top]
        if values.size == n_top:
            row[:] = values
    return tails
