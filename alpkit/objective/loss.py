"""`policy_loss`: one function for every correction, from log-probs to a loss and its receipt.

Log space until the last step; float32 at least; masked tokens never reach `exp`.
"""

from typing import Any, NamedTuple, assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.config.objective import ObjectiveConfig
from alpkit.objective.aggregate import Normalizer, sums_of, token_scale, whole_batch
from alpkit.objective.correction import agreement, correct
from alpkit.objective.levels import reduce_clean
from alpkit.objective.receipt import loss_receipt
from alpkit.objective.reference import reference_kl
from alpkit.objective.surrogate import surrogate
from alpkit.objective.tokens import TokenBatch, clean, indicator


class LossOutput(NamedTuple):
    """What one micro-batch gave.

    `ratio`: what the surrogate clips; `weight`: the detached factor; `keep`: valid tokens that weight and
    rejections left in. All detached except `loss`. `receipt`: sums over valid tokens (key `tokens`
    counts them), so that micro-batches add up.
    """

    loss: Float[Tensor, ""]
    ratio: Float[Tensor, "batch tok"]
    weight: Float[Tensor, "batch tok"]
    keep: Bool[Tensor, "batch tok"]
    receipt: dict[str, Tensor]


def policy_loss(
    *,
    logp: Float[Tensor, "batch tok"],
    logp_old: Float[Tensor, "batch tok"] | None,
    logp_rollout: Float[Tensor, "batch tok"],
    mask: Tensor,
    advantage: Tensor,
    turn: Int[Tensor, "batch tok"] | None = None,
    config: ObjectiveConfig,
    normalizer: Normalizer | Float[Tensor, ""] | float | None = None,
    logp_reference: Float[Tensor, "batch tok"] | None = None,
) -> LossOutput:
    """Off-policy corrected policy-gradient loss of one (micro-)batch, to be minimised.

    `logp` is the ratio's numerator (perturbed or not) and carries the gradient; log-probs in nats;
    `mask` bool or 0/1; `advantage` [batch] or [batch, tok]; `normalizer` the whole mini-batch's
    denominator (`whole_batch`; a number where weights are not batch-normalised), None for this batch's
    own. `logp_old` may be None where the config does not use it (`config.needs_logp_old`), and
    `logp_reference` where reference_kl.coef is 0; ValueError otherwise.
    Straight-through for every level but token: log x_t = sg(x) + logp_t - sg(logp_t), arXiv:2507.18071
    eq. 14 and `spec/alp.md` A.4.
    """
    old = logp_old if config.needs_logp_old else None
    if old is None and config.needs_logp_old:
        raise ValueError("this objective uses pi_old: pass logp_old")
    tokens = TokenBatch.of(logp=logp, logp_old=old, logp_rollout=logp_rollout, mask=mask, turn=turn)
    clamp = config.log_ratio_clamp
    now = tokens.numerator("bypass")
    advantage = advantage.to(now.dtype)
    advantage = advantage[:, None] if advantage.ndim == 1 else clean(advantage.clone(), tokens.real)

    difference = tokens.log_ratio(now, _denominator(tokens, config))
    level = reduce_clean(difference, tokens.real, config.ratio.level, turn)
    log_ratio = level.clamp(*clamp)
    unsaturated = indicator(torch.eq, log_ratio, level)
    ratio = log_ratio.exp()
    whole = _normalizer(normalizer, tokens, advantage, config)
    (weight, keep, receipt), accepted, counted = correct(
        tokens,
        config.weight,
        config.reject,
        clamp=clamp,
        advantage=advantage,
        mean_weight=whole.mean_weight,
    )

    kind = config.surrogate.kind
    current = now if kind == "ppo" else clean(now.clone(), tokens.real)
    terms = surrogate(ratio, current, advantage, config.surrogate)
    corrected = bool(config.corrected)
    kept = keep.to(ratio.dtype) if corrected else tokens.real
    factor = kept * weight if config.weight.action != "none" else kept
    alive = kept if terms.alive is None else unsaturated * terms.alive * kept
    value = terms.loss.mul_(factor)
    slope = terms.slope.mul_(factor)
    if kind == "ppo":
        slope = slope.mul_(unsaturated)
    receipt["saturated"] = unsaturated.numel() - unsaturated.sum()
    receipt |= loss_receipt(
        tokens, advantage, terms, alive, tokens.real - kept if corrected else None
    )
    if config.reference_kl.coef > 0:
        if logp_reference is None:
            raise ValueError("reference_kl.coef is above 0: pass logp_reference")
        reference = logp_reference.detach().to(now.dtype)
        kl = reference_kl(tokens.log_ratio(reference, now), config.reference_kl.estimator)
        pull = config.reference_kl.coef * accepted
        value, slope = value + pull * kl.value, slope + pull * kl.slope
        receipt["reference_kl"] = kl.value.sum()
    scale = token_scale(counted, config.aggregate, whole.loss.to(now.dtype))
    loss = _WithSlope.apply(logp, value, slope, scale)  # type: ignore[no-untyped-call]
    return LossOutput(loss, ratio, weight, keep, receipt)


def removal_agreement(
    keep: Bool[Tensor, "batch tok"],
    *,
    logp: Float[Tensor, "batch tok"],
    logp_old: Float[Tensor, "batch tok"] | None,
    logp_rollout: Float[Tensor, "batch tok"],
    mask: Tensor,
    advantage: Tensor,
    turn: Int[Tensor, "batch tok"] | None = None,
    config: ObjectiveConfig,
) -> dict[str, Tensor]:
    """Sums that compare what a correction kept with what `config`'s would have kept of the same tokens."""
    tokens = TokenBatch.of(
        logp=logp, logp_old=logp_old, logp_rollout=logp_rollout, mask=mask, turn=turn
    )
    advantage = advantage[:, None] if advantage.ndim == 1 else advantage
    other = correct(
        tokens, config.weight, config.reject, clamp=config.log_ratio_clamp, advantage=advantage
    )
    return agreement(keep, other.correction.keep, tokens.mask)


class _WithSlope(torch.autograd.Function):
    """A loss whose derivative by each token's log-prob is known: sum(value * scale), slope * scale."""

    @staticmethod
    def forward(ctx: Any, logp: Tensor, value: Tensor, slope: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(slope, scale)
        ctx.dtype = logp.dtype
        return (value.sum(dim=1) * scale).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        slope, scale = ctx.saved_tensors
        return (slope * (scale * grads[0])[:, None]).to(ctx.dtype), None, None, None


def _denominator(tokens: TokenBatch, config: ObjectiveConfig) -> Float[Tensor, "batch tok"]:
    match config.ratio.denominator:
        case "old":
            return tokens.numerator("mismatch")
        case "rollout":
            return tokens.logp_rollout
        case "current":
            return tokens.numerator("bypass")
        case _:
            assert_never(config.ratio.denominator)


def _normalizer(
    given: Normalizer | Float[Tensor, ""] | float | None,
    tokens: TokenBatch,
    advantage: Float[Tensor, "batch #tok"],
    config: ObjectiveConfig,
) -> Normalizer:
    """What the caller knows of the whole mini-batch, or this batch's own."""
    if isinstance(given, Normalizer):
        return given
    if given is None:
        length = tokens.mask.shape[1]
        return whole_batch([sums_of(tokens, advantage, config)], config, fixed_length=length)
    if config.weight.normalize == "batch":
        raise ValueError(
            "weight.normalize: batch divides by the whole mini-batch's mean weight: pass the Normalizer of whole_batch"
        )
    return Normalizer(torch.as_tensor(given, device=tokens.mask.device))
