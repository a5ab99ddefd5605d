"""Which tokens and responses are left out: ratio bands, divergences, veto, sign-conditioned masks."""

from collections.abc import Sequence
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from alpkit.config.correction import RejectConfig, RejectDivergence, RejectRatio
from alpkit.objective.levels import reduce_clean
from alpkit.objective.tokens import TokenBatch, clean


class Rejection(NamedTuple):
    """Valid tokens that a rule rejected, and those of them that leave the loss's denominator."""

    rejected: Bool[Tensor, "batch tok"]
    uncounted: Bool[Tensor, "batch tok"]


def reject(
    tokens: TokenBatch,
    rules: Sequence[RejectConfig],
    *,
    clamp: tuple[float, float],
    advantage: Float[Tensor, "batch #tok"] | None = None,
) -> Rejection:
    """Apply every rule to the valid tokens; a token goes if any of them rejects it.

    Log ratios are clamped as everywhere: after the reduction for a ratio, per token for a divergence
    (`spec/corrections.md` §2.2). Raises ValueError where a rule looks at the sign of the advantage and
    none was given.
    """
    rejected, uncounted = torch.zeros_like(tokens.mask), torch.zeros_like(tokens.mask)
    for rule in rules:
        statistic = _statistic(tokens, rule, clamp)
        outside = torch.zeros_like(tokens.mask)
        if rule.lower is not None:
            outside = outside | (statistic < rule.lower)
        if rule.upper is not None:
            outside = outside | (statistic > rule.upper)
        if rule.when == "negative_advantage":
            if advantage is None:
                raise ValueError(
                    "reject.when: negative_advantage looks at the advantage: use policy_loss"
                )
            outside = outside & (advantage < 0)
        outside = outside & tokens.mask
        rejected = rejected | outside
        if rule.normalizer == "shrink":
            uncounted = uncounted | outside
    return Rejection(rejected, uncounted)


def _statistic(
    tokens: TokenBatch, rule: RejectConfig, clamp: tuple[float, float]
) -> Float[Tensor, "batch #tok"]:
    """The rule's statistic, per token or per response."""
    numerator = tokens.numerator(rule.of)
    log_ratio = tokens.log_ratio(numerator, tokens.logp_rollout)
    if isinstance(rule, RejectRatio):
        return reduce_clean(log_ratio, tokens.real, rule.level).clamp(*clamp).exp()
    log_ratio = log_ratio.clamp(*clamp)
    match rule.statistic:
        case "k1":
            values = -log_ratio
        case "k2":
            values = log_ratio.square() / 2
        case "k3":
            values = log_ratio.exp() - 1 - log_ratio
        case "prob_gap":
            values = (numerator.exp() - tokens.logp_rollout.exp()).abs()
        case _:
            assert_never(rule.statistic)
    return _reduce(values, tokens, rule)


def _reduce(
    values: Float[Tensor, "batch tok"], tokens: TokenBatch, rule: RejectDivergence
) -> Float[Tensor, "batch #tok"]:
    """Over a response's valid tokens; a response without any is never rejected, its mask sees to it."""
    match rule.reduce:
        case "token":
            return values
        case "mean":
            count = tokens.real.sum(dim=1, keepdim=True).clamp(min=1)
            return clean(values, tokens.real).sum(dim=1, keepdim=True) / count
        case "sum":
            return clean(values, tokens.real).sum(dim=1, keepdim=True)
        case "min":
            return values.masked_fill(~tokens.mask, torch.inf).amin(dim=1, keepdim=True)
        case "max":
            return values.masked_fill(~tokens.mask, -torch.inf).amax(dim=1, keepdim=True)
        case _:
            assert_never(rule.reduce)
