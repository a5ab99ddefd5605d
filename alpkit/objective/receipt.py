"""What the loss did to a micro-batch's tokens, as sums, so that micro-batches add up to a step.

Shares are made from them in `alpkit.trainer.measure`; `alpkit.metrics` says how to read each.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.objective import SurrogateConfig
from alpkit.objective.surrogate import band
from alpkit.objective.tokens import TokenBatch, indicator


def loss_receipt(
    tokens: TokenBatch,
    ratio: Float[Tensor, "batch #tok"],
    advantage: Float[Tensor, "batch #tok"],
    config: SurrogateConfig,
    removed: Float[Tensor, "batch tok"] | None,
) -> dict[str, Tensor]:
    """Counts by side and advantage sign, and how much |advantage| went.

    `removed`: 1 for valid tokens that weight or rejection took out, None where nothing can.
    """
    negative, positive = _signs(advantage)
    size = advantage.abs()
    sums = {
        "sequences": (tokens.count > 0).sum().to(size.dtype),
        "nonfinite": tokens.nonfinite,
        "advantage": tokens.rows(size).sum(),
    }
    if removed is not None:
        # Where a response has one advantage, its count of removed tokens is all that matters.
        gone = tokens.rows(removed) if size.shape[1] == 1 else removed
        sums["removed_negative"] = (gone * negative).sum()
        sums["removed_positive"] = (gone * positive).sum()
        sums["advantage_removed"] = (gone * size).sum()
    if config.kind != "reinforce":
        sums |= _outside(tokens, ratio, advantage, config)
    return sums


def _outside(
    tokens: TokenBatch,
    ratio: Float[Tensor, "batch #tok"],
    advantage: Float[Tensor, "batch #tok"],
    config: SurrogateConfig,
) -> dict[str, Tensor]:
    """Ratios outside the band by side and sign of the advantage, and how many of them that clipped."""
    negative, positive = _signs(advantage)
    low, high = band(config)
    marks = torch.empty_like(ratio)
    sums: dict[str, Tensor] = {}
    for side, beyond, bound, dies in (
        ("low", torch.lt, low, "negative"),
        ("high", torch.gt, high, "positive"),
    ):
        # Masked tokens have ratio 1, which no band leaves out.
        outside = beyond(ratio, bound, out=marks)
        outside = tokens.rows(outside) if advantage.shape[1] == 1 else outside
        by_sign = {"negative": (outside * negative).sum(), "positive": (outside * positive).sum()}
        sums |= {f"outside_{side}_{sign}": count for sign, count in by_sign.items()}
        # Where the gradient lives on, every ratio outside the band is clipped.
        every = config.kind == "cispo"
        sums[f"clipped_{side}"] = tokens.rows(marks).sum() if every else by_sign[dies]
    if config.dual_clip is not None:
        capped = torch.gt(ratio, config.dual_clip, out=marks)
        capped = tokens.rows(capped) if advantage.shape[1] == 1 else capped
        sums["dual_clipped"] = (capped * negative).sum()
    return sums


def _signs(
    advantage: Float[Tensor, "batch #tok"],
) -> tuple[Float[Tensor, "batch #tok"], Float[Tensor, "batch #tok"]]:
    return indicator(torch.lt, advantage, 0.0), indicator(torch.gt, advantage, 0.0)
