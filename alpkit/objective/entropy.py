"""The entropy bonus: the one part of the loss whose gradient does not go through the tokens' log-probs."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class EntropyBonus(NamedTuple):
    """Weight times entropy of every accepted token, with gradient, and sums for the receipt, detached.

    `entropy`: the weighted entropy; `tokens`: how many have it.
    """

    value: Float[Tensor, "batch tok"]
    entropy: Float[Tensor, ""]
    tokens: Float[Tensor, ""]


def entropy_bonus(
    entropy: Float[Tensor, "batch tok"] | None, accepted: Float[Tensor, "batch tok"], weight: float
) -> EntropyBonus:
    """Reward the entropy of the tokens that `accepted` marks with 1; exactly 0, and without gradient, elsewhere."""
    if entropy is None:
        raise ValueError("entropy_bonus is above 0: pass entropy")
    # 0 times an infinite entropy would be NaN, forward and backward.
    value = weight * torch.where(accepted > 0, entropy.to(accepted.dtype), 0.0)
    return EntropyBonus(value, value.detach().sum(), accepted.sum())
