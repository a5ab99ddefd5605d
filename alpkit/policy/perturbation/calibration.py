"""Find the one common sigma at which the noise moves log-probs by a given amount.

"Matched" designs compare sites and layer subsets at equal effect instead of equal sigma: the standard
deviation over response tokens of log pi_theta,delta - log pi_theta on a fixed probe batch.

    sigma = calibrate_sigma(perturbation, model, tokens, attention, response, target=0.05)
"""

import math

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from alpkit.errors import NumericalError
from alpkit.policy.logprobs import response_logprobs
from alpkit.policy.perturbation import LayerwisePerturbation

_DRAWS = 8
_TOLERANCE = 0.02
_TRIES = 40


@torch.no_grad()
def calibrate_sigma(
    perturbation: LayerwisePerturbation,
    model: PreTrainedModel,
    tokens: Int[Tensor, "batch len"],
    attention: Bool[Tensor, "batch len"],
    response: Bool[Tensor, "batch len"],
    *,
    target: float,
    temperature: float = 1.0,
) -> float:
    """Find, set and return sigma so that the ratio's std (nats, population) is `target` within 2 %.

    Bisection on log sigma, with the proportional guess (std grows like sigma) where that stays inside
    the bracket. Eight draws, the same for every sigma tried; a schedule counts from step 1 on (`at_step`).
    Call it on float32 weights outside of autocast. NumericalError when no sigma reaches the target.
    """

    def logp() -> Tensor:
        scored = response_logprobs(model, tokens, attention, response, temperature=temperature)
        return scored.logp[response].double()

    clean = logp()
    perturbation.at_step(None)

    def spread(sigma: float) -> float:
        perturbation.set_sigma(sigma)
        gaps = []
        for draw in range(_DRAWS):
            with perturbation.active((0, 0, draw), mask=attention):
                gaps.append(logp() - clean)
        return float(torch.cat(gaps).std(correction=0))

    low, high, sigma, seen = 0.0, math.inf, 0.02, 0.0
    for _ in range(_TRIES):
        seen = spread(sigma)
        if abs(seen / target - 1) <= _TOLERANCE:
            return sigma
        low, high = (sigma, high) if seen < target else (low, sigma)
        sigma = sigma * min(max(target / seen, 1e-3), 1e3) if seen > 0 else sigma * 1e3
        if not low < sigma < high:
            sigma = math.sqrt(low * high) if low > 0 and high < math.inf else (low * 2 or high / 2)
    raise NumericalError(
        f"no sigma makes the ratio's standard deviation {target} nats: the last try had {seen:.3g}",
        where=f"perturbation.sigma.target_ratio_std at {perturbation.config.site}",
        why="noise there reaches the log-probs too little, or saturates them",
        fix="lower target_ratio_std, or choose other layers or another site",
    )
