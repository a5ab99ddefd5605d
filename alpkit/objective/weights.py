"""Detached factors on the loss: truncated, clipped, masked and normalised importance weights."""

from collections.abc import Mapping
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.correction import Of, WeightConfig
from alpkit.objective.levels import reduce_clean
from alpkit.objective.tokens import TokenBatch, marks


class Weights(NamedTuple):
    """Weights before any normalisation: one per response where the level has one, else 0 where masked.

    `inside`: 1 for weights within the bounds of `mask`, None for the other actions. `receipt`: sums over
    valid tokens.
    """

    weight: Float[Tensor, "batch #tok"]
    inside: Float[Tensor, "batch #tok"] | None
    receipt: dict[str, Tensor]


def raw_weight(
    tokens: TokenBatch,
    log_ratios: Mapping[Of, Float[Tensor, "batch tok"]],
    config: WeightConfig,
    clamp: tuple[float, float],
) -> Weights:
    """Compute the weight exp(log ratio at the configured level), and truncate, clip or mask it.

    truncate: min(x, upper); clip: x into [lower, upper]; mask: x where lower <= x <= upper, else 0, and
    the token stays in the loss's normaliser. `log_ratios`: over mu, for `config.of`, 0 where masked.
    """
    if config.action == "none":
        return Weights(torch.ones_like(tokens.count), None, {})
    raw = _untouched(tokens, log_ratios[config.of], config, clamp)
    real = tokens.real_like(raw)
    inside = None
    touched = {"weight_raw": tokens.rows(raw).sum()}
    match config.action:
        case "truncate":
            touched |= _above(raw, tokens, config.upper)
            weight = raw.clamp_(max=config.upper)
        case "clip":
            below = marks(torch.lt, raw, config.lower).mul_(real)
            touched |= _above(raw, tokens, config.upper) | {"raised": tokens.rows(below).sum()}
            weight = raw.clamp_(config.lower, config.upper).mul_(real)
        case "mask":
            # Masked tokens weigh 0, which is below every lower bound above 0.
            above = marks(torch.ge, raw, config.lower) if config.lower > 0 else real
            inside = marks(torch.le, raw, config.upper).mul_(above)
            weight = raw * inside
            touched["masked"] = tokens.count.sum() - tokens.rows(inside).sum()
            touched["weight_removed"] = tokens.rows(raw.sub_(weight)).sum()
        case _:
            assert_never(config.action)
    return Weights(weight, inside, touched)


def _untouched(
    tokens: TokenBatch,
    log_ratio: Float[Tensor, "batch tok"],
    config: WeightConfig,
    clamp: tuple[float, float],
) -> Float[Tensor, "batch #tok"]:
    """The ratio itself at the configured level; 0 where masked."""
    level = reduce_clean(log_ratio, tokens.real, config.level, tokens.turn)
    return level.clamp(*clamp).exp_().mul_(tokens.real_like(level))


def _above(raw: Float[Tensor, "batch #tok"], tokens: TokenBatch, upper: float) -> dict[str, Tensor]:
    """Count the weights above the upper bound, and sum the excess; masked ones are 0."""
    return {
        "truncated": tokens.rows(marks(torch.gt, raw, upper)).sum(),
        "weight_removed": tokens.rows((raw - upper).clamp_(min=0)).sum(),
    }


def weight_sums(
    weight: Float[Tensor, "batch #tok"], tokens: TokenBatch, config: WeightConfig
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum and count the weights, for batch normalisation; both add up over micro-batches.

    Over valid tokens; at a level with one weight per response, over responses, so that long ones do not
    count more.
    """
    if config.level in ("product", "geometric"):
        some = marks(torch.gt, tokens.count, 0.0)
        return (weight * some).sum(), some.sum()
    return weight.sum(), tokens.count.sum()
