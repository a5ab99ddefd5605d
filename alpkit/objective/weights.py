"""Detached factors on the loss: truncated, clipped and masked importance weights."""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.config.objective import WeightConfig
from alpkit.objective.levels import reduce_to_level


class Correction(NamedTuple):
    """`weight` multiplies the loss (detached, 1 where masked); `keep` marks valid tokens it left in.

    `receipt` holds sums over valid tokens, so that micro-batches add up.
    """

    weight: Float[Tensor, "batch tok"]
    keep: Bool[Tensor, "batch tok"]
    receipt: dict[str, Tensor]


def importance_weight(
    log_weight: Float[Tensor, "batch tok"],
    mask: Bool[Tensor, "batch tok"],
    config: WeightConfig,
    *,
    clamp: tuple[float, float],
    turn: Int[Tensor, "batch tok"] | None = None,
) -> Correction:
    """Weight x = exp(log_weight at the configured level), acted on as the config says.

    truncate: min(x, upper); clip: x into [lower, upper]; mask: x where lower <= x <= upper, else 0, and
    the token stays in the loss's normaliser (`spec/corrections.md` §2.1). Never carries a gradient.
    """
    if config.action == "none":
        return Correction(torch.ones_like(log_weight), mask, {})
    reduced = reduce_to_level(log_weight.detach(), mask, config.level, turn)
    raw = reduced.clamp(*clamp).exp()
    above, below = mask & (raw > config.upper), mask & (raw < config.lower)
    match config.action:
        case "truncate":
            weight, touched = raw.clamp(max=config.upper), {"truncated": above}
        case "clip":
            weight = raw.clamp(config.lower, config.upper)
            touched = {"truncated": above, "raised": below}
        case "mask":
            weight = torch.where(above | below, 0.0, raw)
            touched = {"masked": above | below}
        case _:
            assert_never(config.action)
    receipt = {name: hit.sum().to(raw.dtype) for name, hit in touched.items()}
    receipt["weight_raw"] = (raw * mask).sum()
    receipt["weight_removed"] = ((raw - weight).clamp(min=0) * mask).sum()
    weight = torch.where(mask, weight, 1.0)
    return Correction(weight, mask & (weight > 0), receipt)
