"""`policy_loss`: one function for every correction, from log-probs to a loss and its receipt.

    L = sum over tokens of scale * (keep * weight * surrogate(x, A)
                                    + accept * (centering + coef * KL_ref - bonus * H))

where x is the clipped ratio at its level, weight, keep and accept are the correction's, and scale is one over
the mini-batch's denominator. Log space until the last step; float32 at least; masked tokens never reach `exp`.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.config.correction import Of
from alpkit.config.objective import ObjectiveConfig
from alpkit.objective.aggregate import Normalizer, own_normalizer, row_scale
from alpkit.objective.centering import TopTokens, centre, slopes_by_candidate
from alpkit.objective.correction import compared, correct
from alpkit.objective.entropy import entropy_bonus
from alpkit.objective.receipt import loss_receipt
from alpkit.objective.terms import clipped_ratio, pull, weighted_terms
from alpkit.objective.tokens import TokenBatch, clean


class LossOutput(NamedTuple):
    """Loss of one micro-batch, with its per-token factors and its receipt.

    `ratio`: what the surrogate clips; `weight`: the detached factor, 0 where rejected; both say nothing
    where masked. `keep`: valid tokens that weight and rejections left in. All detached except `loss`.
    `receipt`: sums over valid tokens (key `tokens` counts them), so that micro-batches add up.
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
    top: TopTokens | None = None,
    entropy: Float[Tensor, "batch tok"] | None = None,
) -> LossOutput:
    """Compute the off-policy corrected policy-gradient loss of one (micro-)batch, to be minimised.

    `logp` is the ratio's numerator (perturbed or not) and carries the gradient; log-probs in nats;
    `mask` bool or 0/1; `advantage` [batch] or [batch, tok]; `normalizer` the whole mini-batch's
    denominator (`whole_batch`; a number where weights are not batch-normalised), None for this batch's
    own. `logp_old` may be None where the config does not use it (`config.needs_logp_old`),
    `logp_reference` where reference_kl.coef is 0, `top` where centering.kind is none, and `entropy` (nats,
    with its gradient) where entropy_bonus is 0; ValueError otherwise.
    Straight-through for every level but token: log x_t = sg(log x) + logp_t - sg(logp_t), arXiv:2507.18071
    eq. 14, so that every token of a response carries its own score-function gradient.
    """
    old = logp_old if config.needs_logp_old else None
    tokens = TokenBatch.of(logp=logp, logp_old=old, logp_rollout=logp_rollout, mask=mask, turn=turn)
    advantage = _per_token(advantage, tokens)
    whole = _given(normalizer, tokens, config)

    # The clipped ratio may be one of those that the correction looks at.
    clipped: list[Of] = ["bypass"] if config.ratio.denominator == "rollout" else []
    log_ratios = tokens.over_rollout([*compared(config.weight, config.reject), *clipped])
    corrected = correct(
        tokens,
        log_ratios,
        config.weight,
        config.reject,
        clamp=config.log_ratio_clamp,
        advantage=advantage,
        mean_weight=None if whole is None else whole.mean_weight,
    )
    ratio = clipped_ratio(tokens, log_ratios, config)
    receipt = {
        **corrected.receipt,
        **loss_receipt(tokens, ratio.value, advantage, config, corrected.kept),
        "saturated": tokens.rows(ratio.clamped).sum(),
    }
    loss, slope, receipt["surviving"] = weighted_terms(tokens, ratio, advantage, corrected, config)
    candidates: list[Tensor] = []
    if config.centering.kind == "score":
        centering = centre(tokens, top, advantage, corrected.accepted, config)
        loss = loss + centering.loss
        receipt |= centering.receipt
        candidates = slopes_by_candidate(centering, top)
    if config.reference_kl.coef > 0:
        kl = pull(tokens, logp_reference, config.reference_kl)
        strength = config.reference_kl.coef * corrected.accepted
        loss = loss + (strength * kl.value).sum(dim=1, keepdim=True)
        slope = slope + strength * kl.slope
        receipt["reference_kl"] = kl.value.sum()
        receipt["reference_log_ratio_clamped"] = kl.log_ratio_clamped.sum()
        receipt["reference_value_clamped"] = kl.value_clamped.sum()

    if whole is None:
        whole = own_normalizer(corrected.counted, config, fixed_length=mask.shape[1])
    scale = row_scale(corrected.counted, config.aggregate, whole.loss.to(loss.dtype))
    total = _WithSlopes.apply(loss, scale, logp, slope, *candidates)  # type: ignore[no-untyped-call]
    if config.entropy_bonus > 0:
        bonus = entropy_bonus(entropy, corrected.accepted, config.entropy_bonus)
        total = total - (bonus.value * scale).sum()
        receipt["entropy"], receipt["entropy_bonus"] = bonus.entropy, bonus.tokens
    shape = tokens.real.shape
    return LossOutput(
        loss=total,
        ratio=ratio.value.expand(shape),
        weight=corrected.weight,
        keep=corrected.kept.bool(),
        receipt=receipt,
    )


class _WithSlopes(torch.autograd.Function):
    """sum(loss * scale) over responses, whose derivative by each log-prob is given: slope * scale.

    Arguments after `scale` are pairs: log-probs [batch, tok] or [batch, tok, k], and the slope by them.

    Left to autograd, a masked or clipped token gets 0 * d x / d logp, which is 0 * inf = NaN where its
    log-prob is infinite or its ratio overflows, and one such token ruins the whole step. The formula is
    therefore written out: with the ratio x straight-through (d x / d logp = x), d loss / d logp is
    keep * weight * (-A x) where the clip leaves x alone, and exactly 0 elsewhere. The loss has computed that
    number anyway, so that a backward pass costs two products.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, scale: Tensor, *pairs: Tensor) -> Tensor:
        logps, slopes = pairs[::2], pairs[1::2]
        ctx.save_for_backward(scale, *slopes)
        ctx.dtypes = [logp.dtype for logp in logps]
        return (loss * scale).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale, *slopes = ctx.saved_tensors
        factor = scale * grads[0]
        per_logp = [
            (slope * (factor if slope.ndim == 2 else factor[..., None])).to(dtype)
            for slope, dtype in zip(slopes, ctx.dtypes, strict=True)
        ]
        return None, None, *(grad for by_logp in per_logp for grad in (by_logp, None))


def _per_token(advantage: Tensor, tokens: TokenBatch) -> Float[Tensor, "batch #tok"]:
    """Shape advantages: one per response, or one per token with zeros where masked."""
    advantage = advantage.to(tokens.real.dtype)
    return advantage[:, None] if advantage.ndim == 1 else clean(advantage, tokens.real)


def _given(
    normalizer: Normalizer | Float[Tensor, ""] | float | None,
    tokens: TokenBatch,
    config: ObjectiveConfig,
) -> Normalizer | None:
    """Give the whole mini-batch's denominators, where the caller knows them; None: this batch is all of it."""
    if normalizer is None or isinstance(normalizer, Normalizer):
        return normalizer
    if config.weight.normalize == "batch":
        raise ValueError(
            "weight.normalize: batch divides by the whole mini-batch's mean weight: pass the Normalizer of whole_batch"
        )
    return Normalizer(torch.as_tensor(normalizer, device=tokens.real.device))
