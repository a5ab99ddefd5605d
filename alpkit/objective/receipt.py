"""What the loss did to a micro-batch's tokens, as sums, so that micro-batches add up to a step.

Shares are made from them in `alpkit.measure`; `alpkit.metrics` says how to read each.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from alpkit.objective.surrogate import Surrogate
from alpkit.objective.tokens import TokenBatch


def loss_receipt(
    tokens: TokenBatch,
    advantage: Float[Tensor, "batch #tok"],
    terms: Surrogate,
    saturated: Bool[Tensor, "batch tok"],
    keep: Bool[Tensor, "batch tok"],
) -> dict[str, Tensor]:
    """Counts by side and advantage sign, what lost its gradient, and how much |advantage| went."""
    valid = tokens.mask
    negative, positive = advantage < 0, advantage > 0
    size = advantage.abs()
    removed = valid & ~keep
    sums: dict[str, Tensor] = {
        "sequences": torch.count_nonzero(valid.any(dim=1)),
        "nonfinite": tokens.nonfinite,
        "saturated": torch.count_nonzero(saturated),
        "removed_negative": torch.count_nonzero(removed & negative),
        "removed_positive": torch.count_nonzero(removed & positive),
        "advantage": _total(size, valid),
        "advantage_removed": _total(size, removed),
    }
    alive = keep
    if terms.below is not None and terms.above is not None:
        for side, outside in (("low", terms.below), ("high", terms.above)):
            # Masked tokens have ratio 1, which no band leaves out.
            by_sign = {
                "negative": torch.count_nonzero(outside & negative),
                "positive": torch.count_nonzero(outside & positive),
            }
            sums |= {f"outside_{side}_{sign}": count for sign, count in by_sign.items()}
            dies = "negative" if side == "low" else "positive"
            both = terms.dead is None
            sums[f"clipped_{side}"] = torch.count_nonzero(outside) if both else by_sign[dies]
    if terms.dead is not None:
        alive = keep & ~terms.dead & ~saturated
    if terms.dual is not None:
        sums["dual_clipped"] = torch.count_nonzero(terms.dual)
    sums["surviving"] = torch.count_nonzero(alive)
    return {name: value.to(size.dtype) for name, value in sums.items()}


def _total(
    size: Float[Tensor, "batch #tok"], chosen: Bool[Tensor, "batch tok"]
) -> Float[Tensor, ""]:
    """Sum of `size` over the chosen tokens; per row where a row has one size."""
    if size.shape[1] == 1:
        return (size[:, 0] * chosen.sum(dim=1)).sum()
    return (size * chosen).sum()
