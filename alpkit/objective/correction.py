"""Correct tokens one by one: the weight of each, whether it stays, whether it counts.

`mismatch_correction` is the part that other trainers can use as it is: they multiply their per-token
loss by `weight` and take the mean over `keep` (shrinking) or over their own mask (keeping).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.config.correction import Of, RejectConfig, WeightConfig
from alpkit.objective.rejection import reject as apply_rules
from alpkit.objective.tokens import TokenBatch, marks
from alpkit.objective.weights import raw_weight, weight_sums

_CLAMP = (-20.0, 20.0)


class Correction(NamedTuple):
    """`weight` multiplies the loss (detached; 0 where rejected, 1 where masked); `keep` marks the valid
    tokens that weight and rejections left in.

    `receipt` holds sums over valid tokens (`tokens` counts them), so that micro-batches add up.
    """

    weight: Float[Tensor, "batch tok"]
    keep: Bool[Tensor, "batch tok"]
    receipt: dict[str, Tensor]


class Corrected(NamedTuple):
    """One micro-batch's correction, as the loss needs it; marks are float 0/1, and 0 where masked.

    `weight` is 0 wherever `kept` is. `accepted`: valid tokens that rejections left in; `kept`: those that the
    weight left in too; `counted`: how many of each response's tokens the denominators count.
    """

    weight: Float[Tensor, "batch tok"]
    accepted: Float[Tensor, "batch tok"]
    kept: Float[Tensor, "batch tok"]
    counted: Float[Tensor, "batch 1"]
    receipt: dict[str, Tensor]


def mismatch_correction(
    *,
    logp_old: Float[Tensor, "batch tok"],
    logp_rollout: Float[Tensor, "batch tok"],
    mask: Tensor,
    turn: Int[Tensor, "batch tok"] | None = None,
    weight: WeightConfig,
    reject: Sequence[RejectConfig],
) -> Correction:
    """Weigh and reject tokens by pi_old/mu alone, once per rollout.

    Log-probs in nats, `mask` bool or 0/1. Batch normalisation divides by this batch's mean. Raises
    ValueError for a setting that needs pi_theta or the advantage (`of: bypass`, `when:` other than always):
    those belong to `policy_loss`.
    """
    tokens = TokenBatch.of(
        logp=None, logp_old=logp_old, logp_rollout=logp_rollout, mask=mask, turn=turn
    )
    log_ratios = tokens.over_rollout(compared(weight, reject))
    corrected = correct(tokens, log_ratios, weight, reject, clamp=_CLAMP)
    return Correction(
        corrected.weight + (1 - tokens.real), corrected.kept.bool(), corrected.receipt
    )


def correct(
    tokens: TokenBatch,
    log_ratios: Mapping[Of, Float[Tensor, "batch tok"]],
    weight: WeightConfig,
    rules: Sequence[RejectConfig],
    *,
    clamp: tuple[float, float],
    advantage: Float[Tensor, "batch #tok"] | None = None,
    mean_weight: Float[Tensor, ""] | None = None,
) -> Corrected:
    """Weigh and reject the tokens of one micro-batch.

    `log_ratios`: over mu, for every `of` of weight and rules; `mean_weight`: the whole mini-batch's, None for
    this one's.
    """
    factor, inside, touched = raw_weight(tokens, log_ratios, weight, clamp)
    if weight.normalize == "batch":
        if mean_weight is None:
            total, number = weight_sums(factor, tokens, weight)
            mean_weight = total / number
        # A mean of 0, or of no token at all, is a batch without weight: nothing is left to scale.
        factor = factor / torch.where(mean_weight > 0, mean_weight, 1)
    receipt = {"tokens": tokens.count.sum()} | touched
    accepted, counted = tokens.real, tokens.count
    if rules:
        rejected, uncounted = apply_rules(
            tokens, log_ratios, rules, clamp=clamp, advantage=advantage
        )
        accepted, counted = tokens.real * (1 - rejected), tokens.count - tokens.rows(uncounted)
        lost = tokens.count - tokens.rows(accepted)
        all_lost = marks(torch.eq, lost, tokens.count) * marks(torch.gt, lost, 0.0)
        receipt["rejected"] = lost.sum()
        receipt["rejected_sequences"] = all_lost.sum()
    kept = accepted if inside is None else accepted * inside
    if weight.action == "none":
        factor = kept
    elif rules or factor.shape[1] == 1:
        factor = factor * accepted
    return Corrected(factor, accepted, kept, counted, receipt)


def compared(weight: WeightConfig, rules: Sequence[RejectConfig]) -> list[Of]:
    """Name the ratios that the weight and the rejections look at."""
    return [*([] if weight.action == "none" else [weight.of]), *(rule.of for rule in rules)]
