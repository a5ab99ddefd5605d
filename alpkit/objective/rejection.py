"""Leave out tokens and responses: ratio bands, divergences, veto, sign-conditioned masks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.correction import Of, RejectConfig, RejectDivergence, RejectRatio
from alpkit.objective.levels import reduce_clean
from alpkit.objective.tokens import TokenBatch, clean, marks

# Further out than any divergence of clamped log ratios (at most e^60), so that masked tokens are no extreme.
_BEYOND = 1e30


class Rejection(NamedTuple):
    """Marks (float 0/1) of rejected tokens, and of those that leave the loss's denominator too.

    One per response where every rule decides by response; else one per token, 0 where masked.
    """

    rejected: Float[Tensor, "batch #tok"]
    uncounted: Float[Tensor, "batch #tok"]


def reject(
    tokens: TokenBatch,
    log_ratios: Mapping[Of, Float[Tensor, "batch tok"]],
    rules: Sequence[RejectConfig],
    *,
    clamp: tuple[float, float],
    advantage: Float[Tensor, "batch #tok"] | None = None,
) -> Rejection:
    """Apply every rule to the valid tokens; a token goes if any of them rejects it.

    `log_ratios`: over mu, for every `of` of the rules, 0 where masked. They are clamped as everywhere: after
    the reduction for a ratio, per token for a divergence.
    Raises ValueError where a rule looks at the sign of the advantage and none was given.
    """
    rejected = uncounted = torch.zeros_like(tokens.count)
    for rule in rules:
        outside = _outside(_statistic(tokens, log_ratios[rule.of], rule, clamp), rule)
        if rule.when == "negative_advantage":
            if advantage is None:
                raise ValueError(
                    "reject.when: negative_advantage looks at the advantage: use policy_loss"
                )
            outside = outside * marks(torch.lt, advantage, 0.0)
        rejected = torch.maximum(rejected, outside)
        if rule.normalizer == "shrink":
            uncounted = torch.maximum(uncounted, outside)
    return Rejection(rejected * tokens.real_like(rejected), uncounted * tokens.real_like(uncounted))


def _outside(
    statistic: Float[Tensor, "batch #tok"], rule: RejectConfig
) -> Float[Tensor, "batch #tok"]:
    """Mark (1) where the statistic is below or above the rule's bounds; values on a bound stay."""
    sides = ((torch.lt, rule.lower), (torch.gt, rule.upper))
    first, *second = (
        marks(beyond, statistic, bound) for beyond, bound in sides if bound is not None
    )
    return first + second[0] if second else first


def _statistic(
    tokens: TokenBatch,
    log_ratio: Float[Tensor, "batch tok"],
    rule: RejectConfig,
    clamp: tuple[float, float],
) -> Float[Tensor, "batch #tok"]:
    """Compute the rule's statistic, per token or per response."""
    if isinstance(rule, RejectRatio):
        return reduce_clean(log_ratio, tokens.real, rule.level).clamp(*clamp).exp_()
    log_ratio = log_ratio.clamp(*clamp)
    match rule.statistic:
        case "k1":
            values = log_ratio.neg_()
        case "k2":
            values = log_ratio.square_().div_(2)
        case "k3":
            values = log_ratio.exp().sub_(1).sub_(log_ratio)
        case "prob_gap":
            numerator = tokens.numerator(rule.of)
            values = clean((numerator.exp() - tokens.logp_rollout.exp()).abs(), tokens.real)
        case _:
            assert_never(rule.statistic)
    return _reduce(values, tokens, rule)


def _reduce(
    values: Float[Tensor, "batch tok"], tokens: TokenBatch, rule: RejectDivergence
) -> Float[Tensor, "batch #tok"]:
    """Reduce over a response's valid tokens; every divergence is 0 where masked.

    A response without a valid token is never rejected: its count of tokens sees to it.
    """
    match rule.reduce:
        case "token":
            return values
        case "mean":
            return values.sum(dim=1, keepdim=True) / tokens.count.clamp(min=1)
        case "sum":
            return values.sum(dim=1, keepdim=True)
        case "min":
            return (1 - tokens.real).mul_(_BEYOND).add_(values).amin(dim=1, keepdim=True)
        case "max":
            return (tokens.real - 1).mul_(_BEYOND).add_(values).amax(dim=1, keepdim=True)
        case _:
            assert_never(rule.reduce)
