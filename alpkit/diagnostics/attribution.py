"""Find the tokens and sequences that carry most of a step's divergence, and their share of it.

Takes any per-token contribution to a sum (the terms of K3, say). What a spike is: `spikes`.

    attribute(np.expm1(d) - d, sequence).share_tokens[10]
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alpkit.diagnostics.levels import reduce_to_level

AttributionStatus = Literal["ok", "flat", "short", "nonfinite"]


class SequenceShare(NamedTuple):
    """One sequence's part of the sum."""

    sequence: int
    """Its id, as given."""
    contribution: float
    """Sum over its tokens, in the contribution's unit; signed."""
    share: float
    """|contribution| / sum of |contribution| over sequences; NaN unless status is ok."""
    tokens: int


class Attribution(NamedTuple):
    """Concentration of a sum: shares of its largest items, NaN where `status` says that there are none."""

    share_tokens: dict[int, float]
    """Share of the k tokens with the largest |contribution|, for each k asked for; 1 where k >= n."""
    share_sequences: dict[int, float]
    """Shares of sequences; a sequence contributes the sum over its tokens."""
    tokens: Int[np.ndarray, " top"]
    """Indices of the largest tokens, largest first; ties by index. As many as the largest k."""
    sequences: list[SequenceShare]
    """The largest sequences, largest first; ties by id. As many as the largest k."""
    status: AttributionStatus
    """flat: every contribution is 0; short: no tokens; nonfinite: some token's contribution is not a
    number or infinite, and those tokens come first."""


def attribute(
    contribution: Float[np.ndarray, " tok"],
    sequence: Int[np.ndarray, " tok"],
    top: Sequence[int] = (1, 10, 100),
) -> Attribution:
    """Measure the share of a sum that its largest tokens and sequences carry.

    Parameters
    ----------
    contribution : each valid token's term, any unit. Terms of one sign are what shares are for; with
        mixed signs tokens rank by size, and a sequence by the size of its sum.
    sequence : id of each token's sequence; any integers, in any order.
    top : numbers of items that shares are wanted for.
    """
    values, ids = np.asarray(contribution, np.float64), np.asarray(sequence)
    status = _status(values)
    names, lengths = np.unique(ids, return_counts=True)
    # In units of the largest, as terms may be capped at the largest float64.
    unit = float(np.abs(values).max()) if status == "ok" else 1.0
    sums = reduce_to_level(values / unit, ids, "product")
    tokens, sequences = _ranked(values, max(top)), _ranked(sums, max(top))
    share_tokens, share_sequences = _shares(values / unit, status), _shares(sums, status)
    with np.errstate(over="ignore"):
        totals = sums * unit
    return Attribution(
        _cumulative(share_tokens[tokens], top),
        _cumulative(share_sequences[sequences], top),
        tokens,
        [
            SequenceShare(
                int(names[i]), float(totals[i]), float(share_sequences[i]), int(lengths[i])
            )
            for i in sequences
        ],
        status,
    )


def _status(values: np.ndarray) -> AttributionStatus:
    if not values.size:
        return "short"
    if not np.isfinite(values).all():
        return "nonfinite"
    return "ok" if values.any() else "flat"


def _ranked(values: np.ndarray, top: int) -> np.ndarray:
    """Give the indices of the `top` largest by size, NaN and infinities first, ties by index."""
    size = np.where(np.isfinite(values), np.abs(values), np.inf)
    return np.argsort(-size, kind="stable")[:top]


def _shares(values: np.ndarray, status: AttributionStatus) -> np.ndarray:
    """Give each item's share of the sum of sizes; NaN where all sums are 0."""
    size = np.abs(values)
    if status != "ok" or not size.any():
        return np.full(values.shape, math.nan)
    return np.asarray(size / size.sum())


def _cumulative(descending: np.ndarray, top: Sequence[int]) -> dict[int, float]:
    """Give the share of the first k items, for each k; NaN of no items."""
    nothing = math.nan if not descending.size else 0.0
    return {k: float(descending[:k].sum()) + nothing for k in top}
