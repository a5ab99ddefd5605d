"""Quantiles of the log ratio by the sampler's log-prob: the paper's envelope figure as numbers.

Per bin of the abscissa (log mu; or entropy, position, length) the 2 %, 50 % and 98 % quantiles of the
log ratio. Bins hold equal counts, or lie between fixed edges so that arms share them. Tied abscissas
stay in one bin, so the result depends on the data and never on its order.

    envelope(logp_rollout, logp_perturbed - logp_rollout)
    envelope(entropy, log_ratio, edges=np.linspace(0, 5, 26))
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num


class Envelope(NamedTuple):
    """An envelope: one entry per non-empty bin, ascending along the x axis."""

    centre: Float[np.ndarray, " bin"]
    """Median abscissa of the bin's items (log mu: nats)."""
    low: Float[np.ndarray, " bin"]
    """2 % quantile of the log ratio, nats."""
    median: Float[np.ndarray, " bin"]
    high: Float[np.ndarray, " bin"]
    """98 % quantile; high - low at small mu is what bursts when a correction fails."""
    items: Int[np.ndarray, " bin"]
    """Items per bin; below 50 the outer quantiles are the extremes."""
    left: Float[np.ndarray, " bin"]
    """The bin's fixed edges; with equal counts its smallest and largest abscissa."""
    right: Float[np.ndarray, " bin"]
    dropped: int
    """Items left out because one of the two is not finite, or outside the fixed edges."""
    status: Literal["ok", "short", "nonfinite"]
    """short: no bin, as no item was given or within the edges; nonfinite: no bin, as no item is finite."""


def envelope(
    abscissa: Num[np.ndarray, " item"],
    log_ratio: Float[np.ndarray, " item"],
    *,
    bins: int = 50,
    edges: Float[np.ndarray, " edge"] | None = None,
) -> Envelope:
    """Compute quantiles of the log ratio in bins of another quantity of each item.

    Parameters
    ----------
    abscissa : what is binned: log mu of the sampled tokens (nats), or their entropy, position, ...
    log_ratio : log numerator - log mu of the same items, nats.
    bins : bins of equal count asked for; ties and short input give fewer.
    edges : fixed bins instead, ascending; a bin takes its left edge, the last also its right one.

    References
    ----------
    Ye et al. 2026, Adaptive Layerwise Perturbation, arXiv:2603.19470 (importance-ratio envelope).
    """
    place, d = np.asarray(abscissa, np.float64), np.asarray(log_ratio, np.float64)
    finite = np.isfinite(place) & np.isfinite(d)
    order = np.argsort(np.where(finite, place, np.inf), kind="stable")[: np.count_nonzero(finite)]
    place, d = place[order], d[order]
    if edges is not None:
        inside = (place >= edges[0]) & (place <= edges[-1])
        place, d = place[inside], d[inside]
    if not place.size:
        none = np.array([], np.float64)
        status: Literal["short", "nonfinite"] = (
            "nonfinite" if finite.size > finite.sum() else "short"
        )
        counts = np.array([], np.int64)
        return Envelope(none, none, none, none, counts, none, none, finite.size, status)
    member = _equal_counts(place, bins) if edges is None else _between(place, edges)
    cuts = np.flatnonzero(np.diff(member)) + 1
    places, ratios = np.split(place, cuts), np.split(d, cuts)
    low, median, high = np.array([np.quantile(part, (0.02, 0.5, 0.98)) for part in ratios]).T
    if edges is None:
        left, right = (np.array([part[end] for part in places]) for end in (0, -1))
    else:
        found = member[np.r_[0, cuts]]
        left, right = np.asarray(edges, np.float64)[found], np.asarray(edges, np.float64)[found + 1]
    return Envelope(
        np.array([np.median(part) for part in places]),
        low,
        median,
        high,
        np.array([part.size for part in ratios], np.int64),
        left,
        right,
        int(finite.size - place.size),
        "ok",
    )


def _equal_counts(ascending: np.ndarray, bins: int) -> np.ndarray:
    """Assign each value to a bin by its mid-rank, so that counts are equal and ties stay together."""
    _, group, sizes = np.unique(ascending, return_inverse=True, return_counts=True)
    mid_rank = np.cumsum(sizes) - (sizes + 1) / 2
    return np.asarray((mid_rank * min(bins, ascending.size) / ascending.size).astype(int)[group])


def _between(ascending: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Assign each value to a bin between fixed edges; all values lie inside."""
    return np.minimum(np.searchsorted(edges, ascending, side="right") - 1, edges.size - 2)
