"""Leave out tokens and responses: ratio bands, divergences, regions around mu, veto, sign-conditioned masks."""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.correction import Of, RejectConfig, RejectDivergence, RejectRatio, When
from alpkit.objective.levels import reduce_clean
from alpkit.objective.tokens import TokenBatch, clean, marks

# Further out than any divergence of clamped log ratios (at most e^60), so that masked tokens are no extreme.
_BEYOND = 1e30
_SMALLEST = 1e-6
_NO_BOUNDS = {"lower": None, "upper": None, "when": "always", "normalizer": "keep"}


class Rejection(NamedTuple):
    """Marks (float 0/1) of rejected tokens, and of those that leave the loss's denominator too.

    One per response where every rule decides by response; else one per token. `rejected` says nothing where
    masked, `uncounted` is 0 there.
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
    rejected, uncounted = list[Tensor](), list[Tensor]()
    known = dict[RejectConfig, Tensor]()
    for rule in rules:
        # Two rules may bound one statistic, each on one side and for one sign of the advantage.
        unbounded = rule.model_copy(update=_NO_BOUNDS)
        if unbounded not in known:
            known[unbounded] = _statistic(tokens, log_ratios[rule.of], rule, clamp)
        outside = _outside(known[unbounded], rule)
        if rule.when != "always":
            outside = outside * _eligible(rule.when, log_ratios[rule.of], advantage)
        rejected.append(outside)
        if rule.normalizer == "shrink":
            uncounted.append(outside)
    gone = _any(uncounted, tokens)
    return Rejection(_any(rejected, tokens), gone * tokens.real_like(gone))


def _any(
    marked: Sequence[Float[Tensor, "batch #tok"]], tokens: TokenBatch
) -> Float[Tensor, "batch #tok"]:
    """Mark (1) what any of them marks."""
    return reduce(torch.maximum, marked) if marked else torch.zeros_like(tokens.count)


def _eligible(
    when: When,
    log_ratio: Float[Tensor, "batch tok"],
    advantage: Float[Tensor, "batch #tok"] | None,
) -> Float[Tensor, "batch #tok"]:
    """Mark (1) the tokens that a rule may reject, by their advantage and by where their update would go."""
    if advantage is None:
        raise ValueError(f"reject.when: {when} looks at the advantage: use policy_loss")
    match when:
        case "always":
            return torch.ones_like(advantage)
        case "positive_advantage":
            return marks(torch.gt, advantage, 0.0)
        case "negative_advantage":
            return marks(torch.lt, advantage, 0.0)
        case "moving_away":
            return marks(torch.gt, log_ratio * advantage, 0.0)
        case _:
            assert_never(when)


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
    match rule.statistic:
        case "k1":
            values = log_ratio.clamp(*clamp).neg_()
        case "k2":
            values = log_ratio.clamp(*clamp).square_().div_(2)
        case "k3":
            bounded = log_ratio.clamp(*clamp)
            values = bounded.exp().sub_(1).sub_(bounded)
        case "prob_gap":
            values = _gap(tokens, rule.of).abs_()
        case "signed_prob_gap":
            values = _gap(tokens, rule.of)
        case "binary_kl" | "binary_kl_both":
            values = _binary_kl(tokens, rule.of, both=rule.statistic == "binary_kl_both")
        case _:
            assert_never(rule.statistic)
    return _reduce(values, tokens, rule)


def _gap(tokens: TokenBatch, of: Of) -> Float[Tensor, "batch tok"]:
    """Compute the numerator's probability less mu's; 0 where masked."""
    return clean(tokens.numerator(of).exp() - tokens.logp_rollout.exp(), tokens.real)


def _binary_kl(tokens: TokenBatch, of: Of, *, both: bool) -> Float[Tensor, "batch tok"]:
    """Compute KL(mu | numerator) of the choice between the token and all others, or the larger of both ways.

    D(p | q) = p log(p/q) + (1 - p) log((1 - p)/(1 - q)). Probabilities are held in [1e-6, 1 - 1e-6]: with 1e-8
    float32 rounds the upper bound to 1, the statistic is NaN, and no comparison rejects a NaN.
    """
    bounds = math.log(_SMALLEST), math.log1p(-_SMALLEST)
    mu, numerator = tokens.logp_rollout.clamp(*bounds), tokens.numerator(of).clamp(*bounds)
    log_ratio = mu - numerator
    rest, other_rest = mu.expm1_().neg_(), numerator.expm1_().neg_()
    # p log(p/q) + (1 - p) log((1 - p)/(1 - q)), with both logs as one: what the rest has more of than the token.
    excess = (rest / other_rest).log_().sub_(log_ratio)
    forward = torch.addcmul(log_ratio, rest, excess)
    if not both:
        return clean(forward, tokens.real)
    backward = torch.addcmul(log_ratio, other_rest, excess).neg_()
    return clean(torch.maximum(forward, backward), tokens.real)


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
