"""Per-token terms of the loss: the ratio, the surrogate times the correction, the pull to a reference.

Every function takes and gives detached tensors; slopes are derivatives by the tokens' log-probs.
"""

from collections.abc import Mapping
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.correction import Of
from alpkit.config.objective import ObjectiveConfig, ReferenceKLConfig
from alpkit.objective.correction import Corrected
from alpkit.objective.levels import reduce_clean
from alpkit.objective.reference import ReferenceKL, reference_kl
from alpkit.objective.surrogate import surrogate
from alpkit.objective.tokens import TokenBatch, clean, marks


class Ratio(NamedTuple):
    """The ratio that the surrogate clips, and 1 where `log_ratio_clamp` acted on it (0 where masked); one
    per response at the levels that have one.
    """

    value: Float[Tensor, "batch #tok"]
    clamped: Float[Tensor, "batch #tok"]


class Terms(NamedTuple):
    """Weighted loss summed over each response, its slope by every token's log-prob, and how many tokens
    have a gradient at all.
    """

    loss: Float[Tensor, "batch 1"]
    slope: Float[Tensor, "batch tok"]
    surviving: Float[Tensor, ""]


def clipped_ratio(
    tokens: TokenBatch,
    log_ratios: Mapping[Of, Float[Tensor, "batch tok"]],
    config: ObjectiveConfig,
) -> Ratio:
    """Compute the ratio at its level; `log_ratio_clamp` bounds its log after the reduction.

    `log_ratios`: over mu, with `bypass` where that is the ratio.
    """
    match config.ratio.denominator:
        case "old":
            per_token = tokens.log_ratio(tokens.numerator("bypass"), tokens.numerator("mismatch"))
        case "rollout":
            per_token = log_ratios["bypass"]
        case "current":
            per_token = torch.zeros_like(tokens.real)
        case _:
            assert_never(config.ratio.denominator)
    level = reduce_clean(per_token, tokens.real, config.ratio.level, tokens.turn)
    log_ratio = level.clamp(*config.log_ratio_clamp)
    clamped = marks(torch.ne, log_ratio, level)
    return Ratio(log_ratio.exp_(), clamped)


def weighted_terms(
    tokens: TokenBatch,
    ratio: Ratio,
    advantage: Float[Tensor, "batch #tok"],
    corrected: Corrected,
    config: ObjectiveConfig,
) -> Terms:
    """Multiply the surrogate by the correction's weight, at the tokens that the correction kept."""
    now = tokens.numerator("bypass")
    logp = now if config.surrogate.kind == "ppo" else clean(now, tokens.real)
    loss, slope, alive = surrogate(
        ratio.value, logp, advantage, config.surrogate, clamped=ratio.clamped
    )
    surviving = (alive * corrected.kept).sum()
    weighted = (loss * corrected.weight).sum(dim=1, keepdim=True)
    return Terms(weighted, slope * corrected.weight, surviving)


def pull(
    tokens: TokenBatch,
    logp_reference: Float[Tensor, "batch tok"] | None,
    config: ReferenceKLConfig,
) -> ReferenceKL:
    """Estimate the KL to the reference at every valid token, and its slope; both 0 where masked."""
    if logp_reference is None:
        raise ValueError("reference_kl.coef is above 0: pass logp_reference")
    now = tokens.numerator("bypass")
    return reference_kl(tokens.log_ratio(logp_reference.detach().to(now.dtype), now), config)
