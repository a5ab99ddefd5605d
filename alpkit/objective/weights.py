"""Detached factors on the loss: truncated, clipped, masked and normalised importance weights."""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.config.correction import Level, WeightConfig
from alpkit.objective.levels import reduce_to_level
from alpkit.objective.tokens import TokenBatch

ONE_PER_RESPONSE: frozenset[Level] = frozenset({"product", "geometric"})


class Weights(NamedTuple):
    """`weight`: detached, 1 where masked, not yet normalised; `receipt`: sums over valid tokens."""

    weight: Float[Tensor, "batch tok"]
    receipt: dict[str, Tensor]


def importance_weight(
    log_weight: Float[Tensor, "batch tok"],
    mask: Bool[Tensor, "batch tok"],
    config: WeightConfig,
    *,
    clamp: tuple[float, float],
    turn: Int[Tensor, "batch tok"] | None = None,
) -> Weights:
    """Weight x = exp(log_weight at the configured level), acted on as the config says.

    truncate: min(x, upper); clip: x into [lower, upper]; mask: x where lower <= x <= upper, else 0, and
    the token stays in the loss's normaliser (`spec/corrections.md` §2.1). Never carries a gradient.
    """
    if config.action == "none":
        return Weights(log_weight.new_ones(()).expand_as(log_weight), {})
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
            weight = raw.masked_fill(above | below, 0.0)
            touched = {"masked": above | below}
        case _:
            assert_never(config.action)
    receipt = {name: torch.count_nonzero(hit).to(raw.dtype) for name, hit in touched.items()}
    receipt["weight_raw"] = (raw * mask).sum()
    receipt["weight_removed"] = ((raw - weight).clamp(min=0) * mask).sum()
    return Weights(weight.masked_fill(~mask, 1.0), receipt)


def raw_weight(tokens: TokenBatch, config: WeightConfig, clamp: tuple[float, float]) -> Weights:
    """The weights of a micro-batch, of what `config.of` names; raises ValueError where that was not given."""
    log_weight = tokens.log_ratio(tokens.numerator(config.of), tokens.logp_rollout)
    return importance_weight(log_weight, tokens.mask, config, clamp=clamp, turn=tokens.turn)


def weight_sums(
    weight: Float[Tensor, "batch tok"], mask: Bool[Tensor, "batch tok"], config: WeightConfig
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum of the weights, and their number, that batch normalisation divides: both add over micro-batches.

    Over valid tokens; at a level with one weight per response, over responses, so that long ones do not
    count more.
    """
    total = (weight * mask).sum(dim=1)
    count = mask.sum(dim=1).to(weight.dtype)
    if config.level in ONE_PER_RESPONSE:
        total, count = total / count.clamp(min=1), (count > 0).to(weight.dtype)
    return total.sum(), count.sum()
