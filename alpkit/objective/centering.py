"""Score centering: subtract the mean of the weighted score over the sampler's likeliest tokens, arXiv:2609.20807.

Under sampling from mu the score's mean is not 0, so that even a constant advantage moves the policy. At every
position, with q = mu and p = pi_theta over the vocabulary, H the sampler's likeliest tokens and f the weight,

    loss_t = -A [ sg f(p_a/q_a) log p_a - sum_H sg(q_v f(p_v/q_v) - alpha p_v) log p_v ]

The first term is `reinforce` with its weight; this file makes the second. Off H the sampler is modelled as
x p_v with x = (1 - Q_H)/(1 - P_H): its missing mass in the trainer's proportions. There p/q is 1/x, constant,
and as the whole vocabulary's sum of p grad log p is 0, that tail comes to -alpha sum_H p grad log p.
"""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alpkit.config.correction import WeightConfig
from alpkit.config.objective import ObjectiveConfig
from alpkit.objective.tokens import TokenBatch, clean, marks

# The smallest mass off the head that is divided by, as in the trainers that have the method.
_FLOOR = 1e-6


class TopTokens(NamedTuple):
    """The sampler's k likeliest tokens at every position, distinct: H of score centering.

    Log-probs in nats, normalised over the whole vocabulary. `logp_rollout` is mu's; `logp` the trainer's and
    carries a gradient, as does `logp_rest`: the log of the trainer's mass off H (`centering.tail: softmax`).
    """

    ids: Int[Tensor, "batch tok k"]
    logp_rollout: Float[Tensor, "batch tok k"]
    logp: Float[Tensor, "batch tok k"]
    logp_rest: Float[Tensor, "batch tok"] | None = None


class Centering(NamedTuple):
    """The second term summed over each response, its slopes by the candidates' log-probs (`top.logp`,
    `top.logp_rest`), and sums over valid tokens.
    """

    loss: Float[Tensor, "batch 1"]
    slope: Float[Tensor, "batch tok k"]
    slope_rest: Float[Tensor, "batch tok"] | None
    receipt: dict[str, Tensor]


class _Head(NamedTuple):
    """Log-probs of the candidates, and 1 where a candidate is one: finite, at a valid token; else all are 0."""

    log_q: Float[Tensor, "batch tok k"]
    log_p: Float[Tensor, "batch tok k"]
    real: Float[Tensor, "batch tok k"]


class _Rest(NamedTuple):
    """The rest of the vocabulary as one candidate: its log-prob, and its coefficient."""

    log_p: Float[Tensor, "batch tok"]
    weighted: Float[Tensor, "batch tok"]


def centre(
    tokens: TokenBatch,
    top: TopTokens | None,
    advantage: Float[Tensor, "batch #tok"],
    accepted: Float[Tensor, "batch tok"],
    config: ObjectiveConfig,
) -> Centering:
    """Compute the mean score's part of the loss at the tokens that rejections left in (a weight of 0 stays in).

    A candidate whose log-prob is no finite number is none. Raises ValueError where `top` lacks what the
    config needs.
    """
    if top is None:
        raise ValueError("centering.kind is score: pass top, the sampler's likeliest tokens")
    head = _head(tokens, top)
    q, p = head.log_q.exp().mul_(head.real), head.log_p.exp().mul_(head.real)
    mass_q, mass_p = q.sum(dim=-1), p.sum(dim=-1)
    rest = _rest(tokens, 1 - mass_q, top, config)
    rest_p = 1 - mass_p if rest is None else rest.log_p.exp()
    excess = (1 - mass_q).clamp(min=_FLOOR) / rest_p.clamp(min=_FLOOR)
    on_head = _weighted(q, p, config.weight)
    if rest is None:
        alpha = _weighted(excess, torch.ones_like(excess), config.weight)
        on_head = on_head - alpha[..., None] * p
    strength = advantage * accepted
    value = (on_head * head.log_p).sum(dim=-1)
    size = on_head.abs().sum(dim=-1)
    slope_rest = None
    if rest is not None:
        value = value + rest.weighted * rest.log_p
        size = size + rest.weighted
        slope_rest = strength * rest.weighted
    # What is no candidate has 0 here, which is above every log-prob.
    least = head.log_q.amin(dim=-1)
    sums = {
        "head_mass": mass_p,
        "head_mass_rollout": mass_q,
        "tail_excess": excess * tokens.real,
        "centering": size * tokens.real,
        "outside_head": marks(torch.lt, clean(tokens.logp_rollout, tokens.real), least),
    }
    return Centering(
        loss=(strength * value).sum(dim=1, keepdim=True),
        slope=strength[..., None] * on_head,
        slope_rest=slope_rest,
        receipt={name: values.sum() for name, values in sums.items()},
    )


def slopes_by_candidate(centering: Centering, top: TopTokens | None) -> list[Tensor]:
    """List the candidates' log-probs, each followed by the slope by it."""
    pairs: list[Tensor] = []
    if top is not None:
        pairs += [top.logp, centering.slope]
        if top.logp_rest is not None and centering.slope_rest is not None:
            pairs += [top.logp_rest, centering.slope_rest]
    return pairs


def _head(tokens: TokenBatch, top: TopTokens) -> _Head:
    dtype = tokens.real.dtype
    log_q, log_p = top.logp_rollout.detach().to(dtype), top.logp.detach().to(dtype)
    real = (log_p - log_q).abs_().lt_(torch.inf).mul_(tokens.real[..., None])
    return _Head(clean(log_q, real), clean(log_p, real), real)


def _rest(
    tokens: TokenBatch,
    missing_q: Float[Tensor, "batch tok"],
    top: TopTokens,
    config: ObjectiveConfig,
) -> _Rest | None:
    """Make the rest of the vocabulary one candidate more; None where it is modelled by the two missing masses."""
    if config.centering.tail == "floored":
        return None
    if top.logp_rest is None:
        raise ValueError("centering.tail is softmax: pass top.logp_rest")
    log_p = clean(top.logp_rest.detach().to(tokens.real.dtype), tokens.real)
    # The head's rounded masses may add up to more than 1.
    return _Rest(log_p, _weighted(missing_q.clamp(min=0), log_p.exp(), config.weight))


def _weighted(
    q: Float[Tensor, "*shape"], p: Float[Tensor, "*shape"], config: WeightConfig
) -> Float[Tensor, "*shape"]:
    """Compute q f(p/q) without the quotient: q, min(p, C q), or p where p/q is inside the band."""
    match config.action:
        case "none":
            return q
        case "truncate":
            return torch.minimum(p, config.upper * q)
        case "mask":
            inside = marks(torch.le, p, config.upper * q) * marks(torch.ge, p, config.lower * q)
            return p * inside
        case "clip":
            raise ValueError("weight.action: clip is no weight of centering")
        case _:
            assert_never(config.action)
