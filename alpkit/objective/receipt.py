"""Count what the loss did to a micro-batch's tokens, as sums, so that micro-batches add up to a step.

Shares are made from them in `alpkit.trainer.measure`; `alpkit.metrics` says how to read each.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.objective import ObjectiveConfig, SurrogateConfig
from alpkit.objective.surrogate import band, soft_weight
from alpkit.objective.tokens import TokenBatch, marks


def loss_receipt(
    tokens: TokenBatch,
    ratio: Float[Tensor, "batch #tok"],
    advantage: Float[Tensor, "batch #tok"],
    config: ObjectiveConfig,
    kept: Float[Tensor, "batch tok"],
) -> dict[str, Tensor]:
    """Count tokens by side and advantage sign, and sum how much |advantage| went.

    `kept`: 1 for valid tokens that weight and rejections left in.
    """
    size = advantage.abs()
    sums = {
        "sequences": marks(torch.gt, tokens.count, 0.0).sum(),
        "nonfinite": tokens.nonfinite,
        "advantage": tokens.rows(size).sum(),
    }
    if config.corrected:
        valid = tokens.count if advantage.shape[1] == 1 else tokens.real
        removed = _by_sign(valid - _per_advantage(tokens, kept, advantage), advantage)
        sums["removed_negative"], sums["removed_positive"] = removed.negative, removed.positive
        sums["advantage_removed"] = removed.size
    if config.surrogate.kind == "vespo":
        weight = soft_weight(ratio, advantage, config.surrogate)
        sums["soft_weight"] = (weight * tokens.real).sum()
    if not config.surrogate.has_band:
        return sums
    return sums | _outside(tokens, ratio, advantage, config.surrogate)


def _outside(
    tokens: TokenBatch,
    ratio: Float[Tensor, "batch #tok"],
    advantage: Float[Tensor, "batch #tok"],
    config: SurrogateConfig,
) -> dict[str, Tensor]:
    """Count ratios outside the band by side and sign of the advantage, and those that were clipped."""
    low, high = band(config)
    # Masked tokens have ratio 1, which no band leaves out.
    below = _by_sign(_per_advantage(tokens, marks(torch.lt, ratio, low), advantage), advantage)
    above = _by_sign(_per_advantage(tokens, marks(torch.gt, ratio, high), advantage), advantage)
    # No gradient of cispo dies, so that every ratio outside the band is clipped.
    every = config.kind == "cispo"
    sums = {
        "outside_low_negative": below.negative,
        "outside_low_positive": below.positive,
        "outside_high_negative": above.negative,
        "outside_high_positive": above.positive,
        "clipped_low": below.every if every else below.negative,
        "clipped_high": above.every if every else above.positive,
    }
    if config.dual_clip is not None:
        over = marks(torch.gt, ratio, config.dual_clip)
        capped = _by_sign(_per_advantage(tokens, over, advantage), advantage)
        sums["dual_clipped"] = capped.negative
    return sums


class _BySign(NamedTuple):
    """Counts of marked valid tokens: all, by the sign of their advantage; and the sum of its size."""

    every: Float[Tensor, ""]
    negative: Float[Tensor, ""]
    positive: Float[Tensor, ""]
    size: Float[Tensor, ""]


def _per_advantage(
    tokens: TokenBatch, marked: Float[Tensor, "batch #tok"], advantage: Float[Tensor, "batch #tok"]
) -> Float[Tensor, "batch #tok"]:
    """Count marked valid tokens per advantage: of the response where it has one, else each by itself."""
    return tokens.rows(marked) if advantage.shape[1] == 1 else marked * tokens.real


def _by_sign(count: Float[Tensor, "batch #tok"], advantage: Float[Tensor, "batch #tok"]) -> _BySign:
    """Sum the counts of marked tokens by the sign of the advantage that they belong to."""
    return _BySign(
        every=count.sum(),
        negative=(count * marks(torch.lt, advantage, 0.0)).sum(),
        positive=(count * marks(torch.gt, advantage, 0.0)).sum(),
        size=(count * advantage.abs()).sum(),
    )
