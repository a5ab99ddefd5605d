"""From per-token losses to one number, with the whole mini-batch's denominator."""

from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from alpkit.config.objective import Aggregate


def loss_normalizer(mask: Bool[Tensor, "batch tok"], aggregate: Aggregate) -> Float[Tensor, ""]:
    """Denominator of a mini-batch: valid tokens, sequences that have any, or the padded length."""
    match aggregate:
        case "token_mean":
            count = mask.sum()
        case "seq_mean_token_sum" | "seq_mean_token_mean":
            count = mask.any(dim=1).sum()
        case "fixed_length_sum":
            count = torch.tensor(mask.shape[1], device=mask.device)
        case _:
            assert_never(aggregate)
    return count.float().clamp(min=1)


def aggregate_loss(
    loss: Float[Tensor, "batch tok"],
    mask: Bool[Tensor, "batch tok"],
    aggregate: Aggregate,
    normalizer: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Sum of per-token losses over `normalizer`; summed over micro-batches it is the mini-batch's loss."""
    total = torch.where(mask, loss, 0.0)
    if aggregate == "seq_mean_token_mean":
        total = total / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return total.sum() / normalizer.to(loss.dtype)
