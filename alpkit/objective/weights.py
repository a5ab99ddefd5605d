"""Detached factors on the loss: truncated, clipped, masked and normalised importance weights."""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alpkit.config.correction import WeightConfig
from alpkit.objective.levels import reduce_clean
from alpkit.objective.tokens import TokenBatch, indicator


class Weights(NamedTuple):
    """`weight`: detached, 1 where masked, not yet normalised; `receipt`: sums over valid tokens."""

    weight: Float[Tensor, "batch tok"]
    receipt: dict[str, Tensor]


class RawWeights(NamedTuple):
    """The same as one value per response where the level has one, else 0 where masked.

    `inside`: 1 for weights within the bounds of `mask`, None for the other actions.
    """

    weight: Float[Tensor, "batch #tok"]
    inside: Float[Tensor, "batch #tok"] | None
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
    zeros = torch.zeros_like(log_weight)
    tokens = TokenBatch.of(
        logp=log_weight, logp_old=log_weight, logp_rollout=zeros, mask=mask, turn=turn
    )
    raw = raw_weight(tokens, config, clamp)
    return Weights(ones_where_masked(raw.weight, tokens), raw.receipt)


def raw_weight(tokens: TokenBatch, config: WeightConfig, clamp: tuple[float, float]) -> RawWeights:
    """The weights of a micro-batch, of what `config.of` names; raises ValueError where that was not given."""
    if config.action == "none":
        return RawWeights(torch.ones_like(tokens.count), None, {})
    log_weight = tokens.log_ratio(tokens.numerator(config.of), tokens.logp_rollout)
    level = reduce_clean(log_weight, tokens.real, config.level, tokens.turn)
    raw = tokens.valid(level.clamp_(*clamp).exp_())
    inside = None
    match config.action:
        case "truncate":
            weight, touched = raw.clamp(max=config.upper), _above(raw, tokens, config)
        case "clip":
            weight = tokens.valid(raw.clamp(config.lower, config.upper))
            below = tokens.valid(indicator(torch.lt, raw, config.lower))
            touched = _above(raw, tokens, config) | {"raised": tokens.rows(below).sum()}
        case "mask":
            inside = tokens.valid(_inside(raw, config))
            weight = raw * inside
            touched = {"masked": tokens.count.sum() - tokens.rows(inside).sum()}
        case _:
            assert_never(config.action)
    touched["weight_raw"] = tokens.rows(raw).sum()
    touched["weight_removed"] = tokens.rows(raw.sub_(weight).clamp_(min=0)).sum()
    return RawWeights(weight, inside, touched)


def _above(
    raw: Float[Tensor, "batch #tok"], tokens: TokenBatch, config: WeightConfig
) -> dict[str, Tensor]:
    return {"truncated": tokens.rows(indicator(torch.gt, raw, config.upper)).sum()}


def _inside(raw: Float[Tensor, "batch #tok"], config: WeightConfig) -> Float[Tensor, "batch #tok"]:
    inside = indicator(torch.le, raw, config.upper)
    return inside.mul_(indicator(torch.ge, raw, config.lower)) if config.lower > 0 else inside


def ones_where_masked(
    weight: Float[Tensor, "batch #tok"], tokens: TokenBatch
) -> Float[Tensor, "batch tok"]:
    """A weight per token, 1 where masked: what a loss can be multiplied by as it is."""
    return (weight * tokens.real).add_(1 - tokens.real)


def weight_sums(
    weight: Float[Tensor, "batch #tok"], count: Float[Tensor, "batch 1"], config: WeightConfig
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum of the weights, and their number, that batch normalisation divides: both add over micro-batches.

    Over valid tokens; at a level with one weight per response, over responses, so that long ones do not
    count more.
    """
    if config.level in ("product", "geometric"):
        some = (count > 0).to(count.dtype)
        return (weight * some).sum(), some.sum()
    return weight.sum(), count.sum()
