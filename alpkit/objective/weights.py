"""Detached factors on the loss: truncated, clipped, masked and normalised importance weights."""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alpkit.config.correction import Level, WeightConfig
from alpkit.objective.levels import reduce_to_level
from alpkit.objective.tokens import TokenBatch, indicator

ONE_PER_RESPONSE: frozenset[Level] = frozenset({"product", "geometric"})


class Weights(NamedTuple):
    """`weight`: detached, 1 where masked, not yet normalised; `receipt`: sums over valid tokens."""

    weight: Float[Tensor, "batch tok"]
    receipt: dict[str, Tensor]


def importance_weight(
    log_weight: Float[Tensor, "batch tok"],
    mask: Tensor,
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
    real = mask.to(log_weight.dtype)
    raw = reduce_to_level(log_weight.detach(), real, config.level, turn).clamp_(*clamp).exp_()
    above = indicator(torch.gt, raw, config.upper) * real
    below = indicator(torch.lt, raw, config.lower) * real
    match config.action:
        case "truncate":
            weight, touched = raw.clamp(max=config.upper), {"truncated": above}
        case "clip":
            weight = raw.clamp(config.lower, config.upper)
            touched = {"truncated": above, "raised": below}
        case "mask":
            outside = above + below
            weight, touched = raw * (1 - outside), {"masked": outside}
        case _:
            assert_never(config.action)
    receipt = {name: hit.sum() for name, hit in touched.items()}
    receipt["weight_raw"] = (raw * real).sum()
    receipt["weight_removed"] = ((raw - weight).clamp_(min=0) * real).sum()
    return Weights(weight.mul_(real).add_(1 - real), receipt)


def raw_weight(tokens: TokenBatch, config: WeightConfig, clamp: tuple[float, float]) -> Weights:
    """The weights of a micro-batch, of what `config.of` names; raises ValueError where that was not given."""
    log_weight = tokens.log_ratio(tokens.numerator(config.of), tokens.logp_rollout)
    return importance_weight(log_weight, tokens.real, config, clamp=clamp, turn=tokens.turn)


def weight_sums(
    weight: Float[Tensor, "batch tok"], real: Float[Tensor, "batch tok"], config: WeightConfig
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum of the weights, and their number, that batch normalisation divides: both add over micro-batches.

    Over valid tokens; at a level with one weight per response, over responses, so that long ones do not
    count more.
    """
    total, count = (weight * real).sum(dim=1), real.sum(dim=1)
    if config.level in ONE_PER_RESPONSE:
        total, count = total / count.clamp(min=1), (count > 0).to(weight.dtype)
    return total.sum(), count.sum()
