"""Per-token terms of the loss: the ratio, the surrogate times the correction, the pull to a reference.

Every function takes and gives detached tensors; slopes are derivatives by the tokens' log-probs.
"""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.objective import ObjectiveConfig, ReferenceKLConfig
from alpkit.objective.correction import Corrected
from alpkit.objective.levels import reduce_clean
from alpkit.objective.reference import reference_kl
from alpkit.objective.surrogate import surrogate
from alpkit.objective.tokens import TokenBatch, clean, times


class Ratio(NamedTuple):
    """What the surrogate clips, and 1 where `log_ratio_clamp` acted on it; one per response
    at the levels that have one.
    """

    value: Float[Tensor, "batch #tok"]
    saturated: Float[Tensor, "batch #tok"]


class Terms(NamedTuple):
    """Weighted loss per response, its slope by each token's log-prob, how many tokens have a gradient."""

    value: Float[Tensor, "batch 1"]
    slope: Float[Tensor, "batch tok"]
    surviving: Float[Tensor, ""]


def clipped_ratio(tokens: TokenBatch, config: ObjectiveConfig) -> Ratio:
    """The ratio at its level, of the log ratio that `log_ratio_clamp` bounds after the reduction."""
    now = tokens.numerator("bypass")
    match config.ratio.denominator:
        case "old":
            under = tokens.numerator("mismatch")
        case "rollout":
            under = tokens.logp_rollout
        case "current":
            under = now
        case _:
            assert_never(config.ratio.denominator)
    difference = tokens.log_ratio(now, under)
    level = reduce_clean(difference, tokens.real, config.ratio.level, tokens.turn)
    log_ratio = level.clamp(*config.log_ratio_clamp)
    saturated = torch.ne(log_ratio, level, out=level)
    return Ratio(log_ratio.exp_(), saturated)


def weighted_terms(
    tokens: TokenBatch,
    ratio: Ratio,
    advantage: Float[Tensor, "batch #tok"],
    corrected: Corrected,
    config: ObjectiveConfig,
) -> Terms:
    """The surrogate times the correction, at kept tokens. Writes into `ratio.saturated`."""
    now, kept = tokens.numerator("bypass"), corrected.kept
    current = now if config.surrogate.kind == "ppo" else clean(now.clone(), tokens.real)
    loss, slope, alive = surrogate(ratio.value, current, advantage, config.surrogate)
    if alive is None:
        surviving, slope = kept.sum(), times(slope, kept)
    else:
        unsaturated = torch.eq(ratio.saturated, 0, out=ratio.saturated)
        live = times(times(alive, unsaturated), kept)
        surviving, slope = live.sum(), times(live, slope)
    loss = times(loss, corrected.weight)
    one_each = loss.shape[1] == 1
    value = loss * kept.sum(dim=1, keepdim=True) if one_each else loss.mul_(kept).sum(1, True)
    return Terms(value, times(slope, corrected.weight), surviving)


def pull(
    terms: Terms,
    tokens: TokenBatch,
    accepted: Float[Tensor, "batch tok"],
    logp_reference: Float[Tensor, "batch tok"] | None,
    config: ReferenceKLConfig,
) -> tuple[Terms, Float[Tensor, ""]]:
    """The terms with the pull towards the reference added, and the sum of its KL over valid tokens."""
    if logp_reference is None:
        raise ValueError("reference_kl.coef is above 0: pass logp_reference")
    now = tokens.numerator("bypass")
    reference = logp_reference.detach().to(now.dtype)
    kl = reference_kl(tokens.log_ratio(reference, now), config.estimator)
    strength = config.coef * accepted
    value = terms.value + (strength * kl.value).sum(dim=1, keepdim=True)
    slope = terms.slope.addcmul_(strength, kl.slope)
    return terms._replace(value=value, slope=slope), kl.value.sum()
