"""How far ratios spread at each rollout probability: the paper's envelope figure as numbers.

Bins hold equal counts of log mu; per bin the 2 %, 50 % and 98 % quantiles of the log ratio. Tied
log mu stay in one bin, so the result depends on the data and never on its order.

    envelope(logp_rollout, logp_perturbed - logp_rollout)
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alpkit.diagnostics.divergences import reduce_to_level


class Envelope(NamedTuple):
    """One entry per non-empty bin, ascending in log mu."""

    centre: Float[np.ndarray, " bin"]
    """Median log mu of the bin, nats."""
    low: Float[np.ndarray, " bin"]
    """2 % quantile of the log ratio, nats."""
    median: Float[np.ndarray, " bin"]
    high: Float[np.ndarray, " bin"]
    """98 % quantile; high - low at small mu is what bursts when a correction fails."""
    items: Int[np.ndarray, " bin"]
    """Items per bin; below 50 the outer quantiles are the extremes."""
    dropped: int
    """Items left out because log mu or the log ratio is not finite."""


def envelope(
    logp_rollout: Float[np.ndarray, " item"],
    log_ratio: Float[np.ndarray, " item"],
    *,
    bins: int = 50,
) -> Envelope:
    """Quantiles of the log ratio in equal-count bins of the rollout log-prob.

    Parameters
    ----------
    logp_rollout : log mu of the sampled tokens, nats.
    log_ratio : log numerator - log mu of the same tokens, nats.
    bins : bins asked for; ties and short input give fewer.

    References
    ----------
    Ye et al. 2026, Adaptive Layerwise Perturbation, arXiv:2603.19470 (importance-ratio envelope).
    """
    mu, d = np.asarray(logp_rollout, np.float64), np.asarray(log_ratio, np.float64)
    finite = np.isfinite(mu) & np.isfinite(d)
    dropped = int(finite.size - np.count_nonzero(finite))
    mu, d = mu[finite], d[finite]
    order = np.argsort(mu, kind="stable")
    mu, d = mu[order], d[order]
    cuts = np.flatnonzero(np.diff(_bin_of(mu, bins))) + 1
    parts = [part for part in np.split(d, cuts) if part.size]
    quantiles = [np.quantile(part, (0.02, 0.5, 0.98)) for part in parts]
    low, median, high = np.reshape(np.array(quantiles, np.float64), (-1, 3)).T
    centre = np.array([np.median(part) for part in np.split(mu, cuts) if part.size], np.float64)
    items = np.array([part.size for part in parts], np.int64)
    return Envelope(centre, low, median, high, items, dropped)


def _bin_of(ascending: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each value by its mid-rank: equal counts, ties together."""
    _, group, sizes = np.unique(ascending, return_inverse=True, return_counts=True)
    mid_rank = np.cumsum(sizes) - (sizes + 1) / 2
    return np.asarray((mid_rank * min(bins, ascending.size) / ascending.size).astype(int)[group])


def envelope_sequences(
    logp_rollout: Float[np.ndarray, " tok"],
    log_ratio: Float[np.ndarray, " tok"],
    sequence: Int[np.ndarray, " tok"],
    *,
    against: Literal["mean", "sum"] = "mean",
    bins: int = 50,
) -> Envelope:
    """Envelope of the summed log ratio of whole responses against their log mu.

    `against`: mean puts a response at its mean log mu, so that length does not order the axis; sum
    at its total log mu. A response with one non-finite token is dropped whole.
    """
    total = reduce_to_level(log_ratio, sequence, "product")
    place = reduce_to_level(logp_rollout, sequence, "geometric" if against == "mean" else "product")
    return envelope(place, total, bins=bins)
