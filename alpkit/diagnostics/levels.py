"""Reduce tokens to the items of a level: the tokens, or each response's sum or mean.

The one home of that reduction for flat numpy arrays. Tensors on a device have twins: padded batches in
`alpkit.objective.levels`, flat token tables in `alpkit.trainer.measure`.

    reduce_to_level(logp_train - logp_rollout, response, "product")
"""

from typing import Literal, NamedTuple, assert_never

import numpy as np
from jaxtyping import Float, Int

Level = Literal["token", "geometric", "product"]


class _PerSequence(NamedTuple):
    total: np.ndarray
    length: np.ndarray


def reduce_to_level(
    log_ratio: Float[np.ndarray, " tok"], sequence: Int[np.ndarray, " tok"], level: Level
) -> Float[np.ndarray, " item"]:
    """Reduce log ratios to a level: tokens as they are, or one mean or sum per sequence.

    Parameters
    ----------
    log_ratio : log numerator - log denominator of valid tokens, nats; any other number per token works.
    sequence : id of each token's sequence; any integers, in any order.
    level : token (as is), geometric (mean over the sequence), product (sum over the sequence).

    Returns
    -------
    Float64, one per token or one per sequence in ascending order of id.
    """
    values = np.asarray(log_ratio, dtype=np.float64)
    match level:
        case "token":
            return values
        case "geometric":
            total, length = _per_sequence(values, np.asarray(sequence))
            return np.asarray(total / length)
        case "product":
            return _per_sequence(values, np.asarray(sequence)).total
        case _:
            assert_never(level)


def _per_sequence(values: np.ndarray, sequence: np.ndarray) -> _PerSequence:
    """Compute sum and length of each sequence, ascending by id."""
    if not values.size:
        return _PerSequence(values, values)
    if (sequence[1:] < sequence[:-1]).any():
        # Ids are arbitrary: a stable sort also serves ids that are interleaved or huge.
        order = np.argsort(sequence, kind="stable")
        values, sequence = values[order], sequence[order]
    starts = np.flatnonzero(np.r_[True, sequence[1:] != sequence[:-1]])
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.add.reduceat(values, starts)
    return _PerSequence(total, np.diff(np.r_[starts, sequence.size]).astype(np.float64))
