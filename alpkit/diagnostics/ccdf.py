"""Survival curves of ratios: P(x > z) on a log grid, with a clustered bootstrap band.

The tail plot that needs no model. A straight line in log-log axes is a power law; its slope is
-1/xi of `alpkit.diagnostics.tails`.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alpkit.diagnostics.bootstrap import cluster_counts, cluster_index
from alpkit.diagnostics.tailfit import Side


class Ccdf(NamedTuple):
    """A survival curve with its pointwise 90 % band."""

    log_size: Float[np.ndarray, " grid"]
    """Log z in nats; for the left side z is a size of 1/x."""
    survival: Float[np.ndarray, " grid"]
    """Share of items with x > z (left: 1/x > z)."""
    low: Float[np.ndarray, " grid"]
    high: Float[np.ndarray, " grid"]
    n: int
    """Items that count; non-finite log ratios are left out."""
    dropped: int
    """Non-finite log ratios."""
    status: Literal["ok", "short", "nonfinite"]
    """short: no item; nonfinite: none that is finite. Survival and band are NaN then."""


def ccdf(
    log_ratio: Float[np.ndarray, " item"],
    *,
    side: Side = "right",
    cluster: Int[np.ndarray, " item"] | None = None,
    log_size: Float[np.ndarray, " grid"] | None = None,
    n_boot: int = 400,
    seed: int = 0,
) -> Ccdf:
    """Estimate the survival curve of the ratio, or of its inverse.

    Parameters
    ----------
    log_ratio : d, nats; padding removed.
    side : right for x = exp(d), left for 1/x.
    cluster : id of each item's prompt (or response), resampled for the band; without it items count
        as independent.
    log_size : ascending grid of log z, nats. By default 60 equal steps from 0 (z = 1) to the largest
        log ratio, so that two arms get two grids: pass one grid to both to compare their curves.
    n_boot : resamples for the band; 0, or a single cluster, gives NaN.
    seed : seed of the resampling.
    """
    values = np.asarray(log_ratio, np.float64) * (1 if side == "right" else -1)
    finite = np.isfinite(values)
    values = values[finite]
    grid = _grid(values) if log_size is None else np.asarray(log_size, np.float64)
    owner = cluster_index(None if cluster is None else np.asarray(cluster)[finite], values.size)
    if not values.size:
        empty = np.full(grid.shape, np.nan)
        return Ccdf(
            grid, empty, empty, empty, 0, finite.size, "nonfinite" if finite.size else "short"
        )
    below = np.searchsorted(grid, values, side="left")  # grid points that the value exceeds
    survival = _above(np.bincount(below, minlength=grid.size + 1).astype(float)) / values.size
    low, high = _band(below, owner, grid.size, n_boot, seed)
    return Ccdf(grid, survival, low, high, values.size, int(finite.size - values.size), "ok")


def _grid(values: np.ndarray) -> np.ndarray:
    top = float(values.max()) if values.size else 0.0
    return np.linspace(min(0.0, top), max(0.0, top), 60)


def _above(mass: np.ndarray) -> np.ndarray:
    """Count the items beyond each grid point, from the counts between points, along the last axis."""
    return np.asarray(mass[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:])


def _band(
    below: np.ndarray, owner: np.ndarray, points: int, n_boot: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    clusters = int(owner.max()) + 1
    if clusters < 2 or not n_boot:
        return np.full(points, np.nan), np.full(points, np.nan)
    # Counted once per cluster: a resample is then a weighted sum of rows, whatever the number of items.
    mass = np.zeros((clusters, points + 1))
    np.add.at(mass, (owner, below), 1.0)
    drawn = np.array(list(cluster_counts(clusters, n_boot, seed)), np.float64)
    curves = (drawn @ _above(mass)) / (drawn @ mass.sum(axis=1))[:, None]
    low, high = np.quantile(curves, (0.05, 0.95), axis=0)
    return low, high
