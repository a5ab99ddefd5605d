"""`policy_loss`: one function for every correction, from log-probs to a loss and its receipt.

Log space until the last step; float32 at least; masked tokens never reach `exp`.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.config.objective import ObjectiveConfig
from alpkit.objective.aggregate import Normalizer, own_normalizer, row_scale
from alpkit.objective.correction import agreement, correct
from alpkit.objective.receipt import loss_receipt
from alpkit.objective.terms import clipped_ratio, pull, weighted_terms
from alpkit.objective.tokens import TokenBatch, clean


class LossOutput(NamedTuple):
    """What one micro-batch gave.

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
    signal = _per_token(advantage, tokens)
    given = _given(normalizer, tokens, config)
    ratio = clipped_ratio(tokens, config)
    corrected = correct(
        tokens,
        config.weight,
        config.reject,
        clamp=config.log_ratio_clamp,
        advantage=signal,
        mean_weight=None if given is None else given.mean_weight,
    )
    removed = tokens.real - corrected.kept if config.corrected else None
    receipt = corrected.receipt | loss_receipt(
        tokens, ratio.value, signal, config.surrogate, removed
    )
    receipt["saturated"] = tokens.rows(ratio.saturated).sum()
    terms = weighted_terms(tokens, ratio, signal, corrected, config)
    receipt["surviving"] = terms.surviving
    if config.reference_kl.coef > 0:
        terms, receipt["reference_kl"] = pull(
            terms, tokens, corrected.accepted, logp_reference, config.reference_kl
        )
    if given is None:
        given = own_normalizer(corrected.counted, config, fixed_length=mask.shape[1])
    scale = row_scale(corrected.counted, config.aggregate, given.loss.to(tokens.real.dtype))
    loss = _WithSlope.apply(logp, terms.value, terms.slope, scale)  # type: ignore[no-untyped-call]
    weight = corrected.weight * corrected.accepted if config.reject else corrected.weight
    shape = tokens.real
    return LossOutput(
        loss, ratio.value.expand_as(shape), weight.expand_as(shape), corrected.kept.bool(), receipt
    )


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
    other = correct(
        tokens,
        config.weight,
        config.reject,
        clamp=config.log_ratio_clamp,
        advantage=_per_token(advantage, tokens),
    )
    return agreement(keep, other.kept.bool(), tokens.real)


class _WithSlope(torch.autograd.Function):
    """A loss whose derivative by each token's log-prob is known: sum(value * scale), slope * scale."""

    @staticmethod
    def forward(ctx: Any, logp: Tensor, value: Tensor, slope: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(slope, scale)
        ctx.dtype = logp.dtype
        return (value * scale).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        slope, scale = ctx.saved_tensors
        return (slope * (scale * grads[0])).to(ctx.dtype), None, None, None


def _per_token(advantage: Tensor, tokens: TokenBatch) -> Float[Tensor, "batch #tok"]:
    """One advantage per response, or one per token with zeros where masked."""
    advantage = advantage.to(tokens.real.dtype)
    return advantage[:, None] if advantage.ndim == 1 else clean(advantage.clone(), tokens.real)


def _given(
    normalizer: Normalizer | Float[Tensor, ""] | float | None,
    tokens: TokenBatch,
    config: ObjectiveConfig,
) -> Normalizer | None:
    """What the caller knows of the whole mini-batch; None: this batch is all of it."""
    if normalizer is None or isinstance(normalizer, Normalizer):
        return normalizer
    if config.weight.normalize == "batch":
        raise ValueError(
            "weight.normalize: batch divides by the whole mini-batch's mean weight: pass the Normalizer of whole_batch"
        )
    return Normalizer(torch.as_tensor(normalizer, device=tokens.real.device))
