"""Shared by every tail estimator: the result's type, the order statistics, and when to refuse.

The estimators themselves are in `tails` (Hill, generalised Pareto, k-hat) and `moment`.
"""

import math
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alpkit.diagnostics.bootstrap import cluster_index
from alpkit.diagnostics.divergences import SATURATION
from alpkit.diagnostics.gpd import quartile_index

__all__ = [
    "MIN_TAIL",
    "NO_FIT",
    "SATURATION",
    "Z90",
    "Ordered",
    "Side",
    "Status",
    "TailFit",
    "judged",
    "khat_limit",
    "no_fit",
    "ordered",
    "tail_size",
    "tail_start",
    "tail_status",
]

Side = Literal["right", "left"]
Status = Literal["ok", "high", "flat", "short", "saturated", "nonfinite"]
MIN_TAIL: Final = 5
NO_FIT: Final = ("nonfinite", "short", "flat")
Z90: Final = 1.6448536269514722


class TailFit(NamedTuple):
    """A tail shape with its 90 % interval; NaN where `status` says why there is none."""

    estimate: float
    """Tail shape xi: above 0.5 the ratio has no variance, above 0.7 its mean is not trustworthy."""
    low: float
    high: float
    n: int
    n_tail: int
    threshold: float
    """Start of the tail: log ratio in nats (minus the log ratio for the left side)."""
    scale: float
    """Scale of the generalised Pareto, divided by the ratio at the threshold; else NaN."""
    status: Status
    """high: above `khat_limit(n)`; saturated: a clamp cut the tail, the estimate is too low."""


class Ordered(NamedTuple):
    """Log sizes of one side, descending, each with the number of its cluster."""

    values: Float[np.ndarray, " item"]
    owner: Int[np.ndarray, " item"]
    """From 0 to `clusters` - 1."""
    clusters: int


def khat_limit(n: int) -> float:
    """Give the k-hat above which n items are too few to trust a mean of ratios: min(1 - 1/log10 n, 0.7)."""
    return min(1 - 1 / math.log10(n), 0.7) if n > 1 else -math.inf


def tail_size(n: int) -> int:
    """Give the number of items that k-hat's tail has: ceil(min(0.2 n, 3 sqrt n))."""
    return math.ceil(min(0.2 * n, 3 * math.sqrt(n)))


def ordered(
    log_ratio: Float[np.ndarray, " item"],
    side: Side,
    cluster: Int[np.ndarray, " item"] | None = None,
) -> Ordered:
    """Sort one side's log sizes, largest first; without clusters each item is its own."""
    values = np.asarray(log_ratio, dtype=np.float64) * (1 if side == "right" else -1)
    order = np.argsort(-values, kind="stable")
    owner = cluster_index(cluster, values.size)
    return Ordered(values[order], owner[order], int(owner.max(initial=-1)) + 1)


def tail_start(values: Float[np.ndarray, " item"], n_tail: int) -> float:
    """Give the order statistic just below the tail; NaN where the tail is everything."""
    return float(values[n_tail]) if 0 <= n_tail < values.size else math.nan


def tail_status(values: Float[np.ndarray, " item"], n_tail: int, start: float) -> Status:
    """Say what forbids a fit above `start` (nonfinite, short, flat) or qualifies it (saturated); else ok."""
    if not np.isfinite(values).all():
        return "nonfinite"
    if n_tail < MIN_TAIL or math.isnan(start):
        return "short"
    # An atom (exact zeros, a low-precision grid) at the threshold leaves no tail to speak of; one
    # at the engines' clamp hides it, and its fit is NaN.
    if values[quartile_index(n_tail)] <= start:
        return "saturated" if start >= SATURATION else "flat"
    ties = int(np.count_nonzero(values[:n_tail] == values[0]))
    if ties > 1 and (values[0] >= SATURATION or ties > 0.1 * n_tail):
        return "saturated"
    return "ok"


def no_fit(status: Status, n: int, n_tail: int) -> TailFit:
    """Make a result without numbers, whose status says why nothing was fitted."""
    return TailFit(math.nan, math.nan, math.nan, n, n_tail, math.nan, math.nan, status)


def judged(status: Status, estimate: float, n: int) -> Status:
    """Turn `ok` into `high` where n items are too few for so heavy a tail."""
    return "high" if status == "ok" and estimate > khat_limit(n) else status
