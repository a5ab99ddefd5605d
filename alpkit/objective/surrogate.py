"""Per-token losses from a ratio and an advantage, with their slopes: PPO clip, CISPO, REINFORCE.

The slope is written out instead of left to autograd: it is a mask times a number that the loss needs
anyway, so a backward pass costs one multiplication, and no 0 * inf can arise on the way.
"""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.objective import SurrogateConfig
from alpkit.objective.tokens import indicator, times


class Surrogate(NamedTuple):
    """`loss` per token, to be minimised; `slope`: its derivative with respect to the token's log-prob where
    that is `alive` (float 0/1; None: everywhere).

    One value per response where ratio and advantage have one. `slope` may be `loss` itself.
    """

    loss: Float[Tensor, "batch #tok"]
    slope: Float[Tensor, "batch #tok"]
    alive: Float[Tensor, "batch #tok"] | None = None


def surrogate(
    ratio: Float[Tensor, "batch #tok"],
    logp: Float[Tensor, "batch tok"],
    advantage: Float[Tensor, "batch #tok"],
    config: SurrogateConfig,
) -> Surrogate:
    """Per-token surrogate loss of a detached ratio, d ratio / d logp = ratio (straight-through).

    ppo (`spec/alp.md` A.3): max(-A x, -A clip(x)), capped at -A c for A < 0. That is -A x within bounds
    that depend on the sign of A: no upper one but c for A < 0, no lower one for A > 0; outside them the
    gradient is dead. cispo (arXiv:2506.13585): -sg(clip(x)) A log pi; the gradient never dies.
    """
    low, high = band(config)
    match config.kind:
        case "ppo":
            cap = torch.inf if config.dual_clip is None else config.dual_clip
            negative = advantage < 0
            floor, ceiling = (
                torch.where(negative, ratio.new_tensor(if_negative), ratio.new_tensor(otherwise))
                for if_negative, otherwise in ((low, -torch.inf), (cap, high))
            )
            bounded = torch.maximum(ratio, floor)
            bounded = torch.minimum(bounded, ceiling, out=bounded)
            alive = indicator(torch.eq, bounded, ratio)
            loss = bounded.mul_(-advantage)
            return Surrogate(loss, loss, alive)
        case "cispo":
            slope = times(ratio.clamp(low, high), -advantage)
            return Surrogate(slope * logp, slope)
        case "reinforce":
            slope = ratio * -advantage
            return Surrogate(slope * logp, slope)
        case _:
            assert_never(config.kind)


def band(config: SurrogateConfig) -> tuple[float, float]:
    """The ratios between which nothing is clipped."""
    return 1 - config.epsilon_low, 1 + config.epsilon_high
