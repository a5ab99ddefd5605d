"""Per-token losses from a ratio and an advantage, with their slopes: PPO clip, CISPO, REINFORCE, SAPO, VESPO."""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.objective import SurrogateConfig
from alpkit.objective.tokens import marks


class Surrogate(NamedTuple):
    """Loss per token, to be minimised, and its derivative by the token's log-prob.

    `alive`: 1 where clip and clamp leave the token a gradient, else 0; `slope` is 0 where it is 0. All have
    one value per response where ratio and advantage have one.
    """

    loss: Float[Tensor, "batch #tok"]
    slope: Float[Tensor, "batch #tok"]
    alive: Float[Tensor, "batch #tok"]


def surrogate(
    ratio: Float[Tensor, "batch #tok"],
    logp: Float[Tensor, "batch tok"],
    advantage: Float[Tensor, "batch #tok"],
    config: SurrogateConfig,
    *,
    clamped: Float[Tensor, "batch #tok"] | None = None,
) -> Surrogate:
    """Compute the per-token surrogate loss of a detached ratio x, with d x / d logp = x (straight-through).

    ppo (arXiv:1707.06347 eq. 7): max(-A x, -A clip(x)), capped at -A c for A < 0. That is -A x with x held
    within bounds that depend on the sign of A: no upper one but c for A < 0, no lower one for A > 0; outside
    them the gradient is dead. cispo (arXiv:2506.13585): -sg(clip(x)) A log pi; the gradient never dies.
    reinforce: -sg(x) A log pi. sapo (arXiv:2511.20347): -A (4/tau) s(tau (x - 1)), s the sigmoid, with slope
    -A at x = 1 and 0 far from it. vespo (arXiv:2602.10693): -sg(phi(x)) A log pi, see `soft_weight`.
    `clamped`: 1 where the log of x was held at a bound, so that x is a constant; cispo, reinforce and vespo
    detach x anyway.
    """
    low, high = band(config)
    match config.kind:
        case "ppo":
            cap = torch.inf if config.dual_clip is None else config.dual_clip
            negative = advantage < 0
            floor = torch.where(negative, ratio.new_tensor(low), ratio.new_tensor(-torch.inf))
            ceiling = torch.where(negative, ratio.new_tensor(cap), ratio.new_tensor(high))
            bounded = torch.maximum(ratio, floor).clamp_(max=ceiling)
            alive = marks(torch.eq, bounded, ratio)
            if clamped is not None:
                alive.gt_(clamped)
            loss = bounded.mul_(-advantage)
            return Surrogate(loss, loss * alive, alive)  # d(-A x) / d logp = -A x
        case "cispo":
            slope = -advantage * ratio.clamp(low, high)
            return Surrogate(slope * logp, slope, torch.ones_like(advantage))
        case "reinforce":
            slope = -advantage * ratio
            return Surrogate(slope * logp, slope, torch.ones_like(advantage))
        case "sapo":
            tau = torch.where(
                advantage > 0,
                ratio.new_tensor(config.tau_positive),
                ratio.new_tensor(config.tau_negative),
            )
            gate = torch.sigmoid((ratio - 1) * tau)
            alive = torch.ones_like(gate)
            if clamped is not None:
                alive = alive - clamped
            # 4 s (1 - s) x falls faster than x grows, and is 0 before x overflows.
            slope = gate * (1 - gate) * ratio * (-4 * advantage) * alive
            return Surrogate(gate * (-4 * advantage / tau), slope, alive)
        case "vespo":
            slope = -advantage * soft_weight(ratio, advantage, config)
            return Surrogate(slope * logp, slope, torch.ones_like(advantage))
        case _:
            assert_never(config.kind)


def band(config: SurrogateConfig) -> tuple[float, float]:
    """Give the ratios between which nothing is clipped."""
    return 1 - config.epsilon_low, 1 + config.epsilon_high


def soft_weight(
    ratio: Float[Tensor, "batch #tok"],
    advantage: Float[Tensor, "batch #tok"],
    config: SurrogateConfig,
) -> Float[Tensor, "batch #tok"]:
    """Compute VESPO's weight phi(x) = x^k exp(lambda (1 - x)), which is 1 at x = 1; k and lambda by the sign of A.

    x is held above 1e-8, as TRL holds it; of large x nothing is left long before TRL's bound of e^20.
    """
    negative = advantage < 0
    power, decay = (
        torch.where(negative, ratio.new_tensor(below), ratio.new_tensor(above))
        for below, above in (
            (config.power_negative, config.power_positive),
            (config.decay_negative, config.decay_positive),
        )
    )
    x = ratio.clamp(min=1e-8)
    return (x.log() * power + (1 - x) * decay).exp()
