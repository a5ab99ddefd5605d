"""Levels: over which tokens log ratios are summed or averaged, broadcast back to tokens.

"Sequence" is no level: half of the field means the product by it, half the geometric mean.
"""

from typing import assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.config.correction import Level


def reduce_to_level(
    log_ratio: Float[Tensor, "batch tok"],
    mask: Bool[Tensor, "batch tok"],
    level: Level,
    turn: Int[Tensor, "batch tok"] | None = None,
) -> Float[Tensor, "batch tok"]:
    """Each valid token's log ratio at `level`, nats; 0 where masked.

    Masked entries are removed before any arithmetic, so their values (inf, NaN) never matter.
    `turn` ids (0-based, non-decreasing along tok) are used by the turn levels; None means one turn.
    """
    valid = log_ratio.masked_fill(~mask, 0.0)
    match level:
        case "token":
            return valid
        case "product":
            reduced = valid.sum(dim=1, keepdim=True).expand_as(valid)
        case "geometric":
            count = mask.sum(dim=1, keepdim=True).clamp(min=1)
            reduced = (valid.sum(dim=1, keepdim=True) / count).expand_as(valid)
        case "cumulative":
            reduced = valid.cumsum(dim=1)
        case "cumulative_geometric":
            reduced = valid.cumsum(dim=1) / mask.cumsum(dim=1).clamp(min=1)
        case "turn" | "cumulative_turn":
            ids = torch.zeros_like(mask, dtype=torch.long) if turn is None else turn.long()
            per_turn = valid.new_zeros(valid.shape[0], int(ids.max()) + 1)
            per_turn = per_turn.scatter_add(1, ids, valid)
            if level == "cumulative_turn":
                per_turn = per_turn.cumsum(dim=1)
            reduced = per_turn.gather(1, ids)
        case _:
            assert_never(level)
    return reduced.masked_fill(~mask, 0.0)
