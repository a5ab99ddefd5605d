"""Count what the loss did to a micro-batch's tokens, as sums, so that micro-batches add up to a step.

Shares are made from them in `alpkit.trainer.measure`; `alpkit.metrics` says how to read each.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.objective import SurrogateConfig
from alpkit.objective.surrogate import band
from alpkit.objective.tokens import TokenBatch, marks


def loss_receipt(
    tokens: TokenBatch,
    ratio: Float[Tensor, "batch #tok"],
    advantage: Float[Tensor, "batch #tok"],
    config: SurrogateConfig,
    removed: Float[Tensor, "batch tok"] | None,
) -> dict[str, Tensor]:
    """Count tokens by side and advantage sign, and sum how much |advantage| went.

    `removed`: 1 for valid tokens that weight or rejection took out, None where nothing can.
    """
    size = advantage.abs()
    sums = {
        "sequences": marks(torch.gt, tokens.count, 0.0).sum(),
        "nonfinite": tokens.nonfinite,
        "advantage": tokens.rows(size).sum(),
    }
    if removed is not None:
        sums |= {f"removed_{sign}": n for sign, n in _by_sign(tokens, removed, advantage).items()}
        gone = tokens.rows(removed) if size.shape[1] == 1 else removed
        sums["advantage_removed"] = (gone * size).sum()
    return sums if config.kind == "reinforce" else sums | _outside(tokens, ratio, advantage, config)


def _outside(
    tokens: TokenBatch,
    ratio: Float[Tensor, "batch #tok"],
    advantage: Float[Tensor, "batch #tok"],
    config: SurrogateConfig,
) -> dict[str, Tensor]:
    """Count ratios outside the band by side and sign of the advantage, and those that were clipped."""
    low, high = band(config)
    # Masked tokens have ratio 1, which no band leaves out.
    below, above = marks(torch.lt, ratio, low), marks(torch.gt, ratio, high)
    low_by, high_by = (_by_sign(tokens, side, advantage) for side in (below, above))
    sums = {f"outside_low_{sign}": count for sign, count in low_by.items()}
    sums |= {f"outside_high_{sign}": count for sign, count in high_by.items()}
    if config.kind == "cispo":  # no gradient dies, so that every ratio outside the band is clipped
        sums |= {"clipped_low": tokens.rows(below).sum(), "clipped_high": tokens.rows(above).sum()}
    else:
        sums |= {"clipped_low": low_by["negative"], "clipped_high": high_by["positive"]}
    if config.dual_clip is not None:
        capped = marks(torch.gt, ratio, config.dual_clip)
        sums["dual_clipped"] = _by_sign(tokens, capped, advantage)["negative"]
    return sums


def _by_sign(
    tokens: TokenBatch, marked: Float[Tensor, "batch #tok"], advantage: Float[Tensor, "batch #tok"]
) -> dict[str, Tensor]:
    """Count marked valid tokens with a negative and with a positive advantage."""
    # Where a response has one advantage, its count of marked tokens is all that matters.
    count = tokens.rows(marked) if advantage.shape[1] == 1 else marked
    signs = {"negative": torch.lt, "positive": torch.gt}
    return {name: (count * marks(sign, advantage, 0.0)).sum() for name, sign in signs.items()}
