"""`policy_loss`: one function for every correction, from log-probs to a loss and its receipt.

Log space until the last step; float32 at least; masked tokens never reach `exp`.
"""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.config.objective import ObjectiveConfig
from alpkit.objective.aggregate import aggregate_loss, loss_normalizer
from alpkit.objective.levels import reduce_to_level
from alpkit.objective.surrogate import surrogate
from alpkit.objective.weights import importance_weight


class LossOutput(NamedTuple):
    """What one micro-batch gave.

    `ratio`: what the surrogate clips; `weight`: the detached factor; `keep`: valid tokens that the
    weight left in. All detached except `loss`. `receipt`: sums over valid tokens (key `tokens` counts
    them), so that micro-batches add up.
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
    config: ObjectiveConfig,
    turn: Int[Tensor, "batch tok"] | None = None,
    normalizer: Float[Tensor, ""] | float | None = None,
) -> LossOutput:
    """Off-policy corrected policy-gradient loss of one (micro-)batch, to be minimised.

    `logp` is the ratio's numerator (perturbed or not) and carries the gradient; log-probs in nats;
    `mask` bool or 0/1; `advantage` [batch] or [batch, tok]; `normalizer` the whole mini-batch's
    denominator (`loss_normalizer`), None for this batch's own. `logp_old` may be None where the
    config does not use it (`config.needs_logp_old`); ValueError otherwise.
    Straight-through for every level but token: log x_t = sg(x) + logp_t - sg(logp_t), arXiv:2507.18071
    eq. 14 and `spec/alp.md` A.4.
    """
    mask = mask.bool()
    dtype = torch.promote_types(logp.dtype, torch.float32)
    logp = torch.where(mask, logp, 0.0).to(dtype)
    if logp_old is None and config.needs_logp_old:
        raise ValueError("this objective uses pi_old: pass logp_old")
    advantage = advantage.to(dtype)
    if advantage.ndim == 1:
        advantage = advantage[:, None]
    advantage = torch.where(mask, advantage.expand_as(logp), 0.0)

    match config.ratio.denominator:
        case "old":
            reference = logp_old
        case "rollout":
            reference = logp_rollout
        case "current":
            reference = logp.detach()
        case _:
            assert_never(config.ratio.denominator)
    assert reference is not None
    difference = logp - torch.where(mask, reference, 0.0).to(dtype)
    level = reduce_to_level(difference.detach(), mask, config.ratio.level, turn)
    low, high = config.log_ratio_clamp
    saturated = mask & ((level < low) | (level > high))
    log_ratio = (level + (difference - difference.detach())).clamp(low, high)

    of = logp_old if config.weight.of == "mismatch" else logp.detach()
    log_weight = torch.zeros_like(logp) if of is None else (of - logp_rollout).to(dtype)
    correction = importance_weight(
        log_weight, mask, config.weight, clamp=config.log_ratio_clamp, turn=turn
    )
    terms = surrogate(log_ratio, logp, advantage, config.surrogate)
    if normalizer is None:
        normalizer = loss_normalizer(mask, config.aggregate)
    loss = aggregate_loss(
        terms.loss * correction.weight, mask, config.aggregate, torch.as_tensor(normalizer)
    )

    dead = terms.clipped_low | terms.clipped_high | terms.dual_clipped
    if config.surrogate.kind != "ppo":
        dead = torch.zeros_like(dead)
    receipt = {
        "tokens": mask.sum(),
        "clipped_low": (terms.clipped_low & mask).sum(),
        "clipped_high": (terms.clipped_high & mask).sum(),
        "dual_clipped": (terms.dual_clipped & mask).sum(),
        "saturated": saturated.sum(),
        "surviving": (correction.keep & ~dead & ~saturated).sum(),
    }
    receipt = {name: value.to(dtype) for name, value in receipt.items()} | correction.receipt
    return LossOutput(loss, log_ratio.detach().exp(), correction.weight, correction.keep, receipt)
