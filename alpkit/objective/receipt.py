"""Count what the loss did to a micro-batch's tokens, as sums, so that micro-batches add up to a step.

Shares are made from them in `alpkit.trainer.measure`; `alpkit.metrics` says how to read each.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.objective import ObjectiveConfig, SurrogateConfig
from alpkit.objective.surrogate import band
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
        removed = _by_sign(tokens, tokens.real - kept, advantage)
        sums["removed_negative"], sums["removed_positive"] = removed.negative, removed.positive
        sums["advantage_removed"] = removed.size
    if config.surrogate.kind == "reinforce":
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
    below = _by_sign(tokens, marks(torch.lt, ratio, low), advantage)
    above = _by_sign(tokens, marks(torch.gt, ratio, high), advantage)
    every = (
        config.kind == "cispo"
    )  # no gradient dies, so that every ratio outside the band is clipped
    sums = {
        "outside_low_negative": below.negative,
        "outside_low_positive": below.positive,
        "outside_high_negative": above.negative,
        "outside_high_positive": above.positive,
        "clipped_low": below.every if every else below.negative,
        "clipped_high": above.every if every else above.positive,
    }
    if config.dual_clip is not None:
        capped = _by_sign(tokens, marks(torch.gt, ratio, config.dual_clip), advantage)
        sums["dual_clipped"] = capped.negative
    return sums


class _BySign(NamedTuple):
    """Counts of marked valid tokens: all, by the sign of their advantage; and the sum of its size."""

    every: Float[Tensor, ""]
    negative: Float[Tensor, ""]
    positive: Float[Tensor, ""]
    size: Float[Tensor, ""]


def _by_sign(
    tokens: TokenBatch, marked: Float[Tensor, "batch #tok"], advantage: Float[Tensor, "batch #tok"]
) -> _BySign:
    """Count marked valid tokens by the sign of the advantage."""
    # Where a response has one advantage, its count of marked tokens is all that matters.
    rows = tokens.rows(marked)
    count = rows if advantage.shape[1] == 1 else marked
    return _BySign(
        every=rows.sum(),
        negative=(count * marks(torch.lt, advantage, 0.0)).sum(),
        positive=(count * marks(torch.gt, advantage, 0.0)).sum(),
        size=(count * advantage.abs()).sum(),
    )
