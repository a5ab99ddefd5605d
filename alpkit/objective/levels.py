"""Reduce log ratios to a level: sum or average them over tokens, a turn, or a response.

"Sequence" is no level: half of the field means the product by it, half the geometric mean.
"""

from typing import assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alpkit.config.correction import Level
from alpkit.objective.tokens import as_float, clean


def reduce_to_level(
    log_ratio: Float[Tensor, "batch tok"],
    mask: Tensor,
    level: Level,
    turn: Int[Tensor, "batch tok"] | None = None,
) -> Float[Tensor, "batch tok"]:
    """Give each valid token its log ratio at `level`, nats; 0 where masked.

    Masked entries are removed before any arithmetic, so their values (inf, NaN) never matter.
    `mask` is bool or 0/1. `turn` ids (0-based, non-decreasing along tok) serve the turn levels; None: one turn.
    """
    real = as_float(mask, log_ratio.dtype)
    return reduce_clean(clean(log_ratio, real), real, level, turn) * real


def reduce_clean(
    valid: Float[Tensor, "batch tok"],
    real: Float[Tensor, "batch tok"],
    level: Level,
    turn: Int[Tensor, "batch tok"] | None = None,
) -> Float[Tensor, "batch #tok"]:
    """Reduce log ratios that are already 0 where `real` is 0; [batch, 1] for product and geometric."""
    match level:
        case "token":
            return valid
        case "product":
            return valid.sum(dim=1, keepdim=True)
        case "geometric":
            count = real.sum(dim=1, keepdim=True).clamp(min=1)
            return valid.sum(dim=1, keepdim=True) / count
        case "cumulative":
            return valid.cumsum(dim=1) * real
        case "cumulative_geometric":
            return valid.cumsum(dim=1) / real.cumsum(dim=1).clamp(min=1) * real
        case "turn" | "cumulative_turn":
            ids = torch.zeros_like(valid, dtype=torch.long) if turn is None else turn.long()
            empty = valid.new_zeros(valid.shape[0], int(ids.max()) + 1)
            per_turn = empty.scatter_add(1, ids, valid)
            if level == "cumulative_turn":
                per_turn = per_turn.cumsum(dim=1)
            return per_turn.gather(1, ids) * real
        case _:
            assert_never(level)
