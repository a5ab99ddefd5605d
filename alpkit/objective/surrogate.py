"""Per-token losses from a ratio and an advantage, with their slopes: PPO clip, CISPO, REINFORCE.

The slope is written out instead of left to autograd: it is a mask times a number that the loss needs
anyway, so a backward pass costs one multiplication, and no 0 * inf can arise on the way.
"""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from alpkit.config.objective import SurrogateConfig


class Surrogate(NamedTuple):
    """`loss` per token, to be minimised; `slope`: its derivative with respect to the token's log-prob.

    `below` and `above` mark ratios outside the band; `dead` the tokens that lost their gradient to it,
    `dual` those that lost it to the dual clip. None: this kind has no such bound.
    """

    loss: Float[Tensor, "batch tok"]
    slope: Float[Tensor, "batch tok"]
    below: Bool[Tensor, "batch tok"] | None = None
    above: Bool[Tensor, "batch tok"] | None = None
    dead: Bool[Tensor, "batch tok"] | None = None
    dual: Bool[Tensor, "batch tok"] | None = None


def surrogate(
    ratio: Float[Tensor, "batch tok"],
    logp: Float[Tensor, "batch tok"],
    advantage: Float[Tensor, "batch #tok"],
    config: SurrogateConfig,
) -> Surrogate:
    """Per-token surrogate loss of a detached ratio, d ratio / d logp = ratio (straight-through).

    ppo (`spec/alp.md` A.3): max(-A x, -A clip(x)), capped at -A c for A < 0. That is -A x within bounds
    that depend on the sign of A: no upper one but c for A < 0, no lower one for A > 0; outside them the
    gradient is dead. cispo (arXiv:2506.13585): -sg(clip(x)) A log pi; the gradient never dies.
    """
    low, high = 1 - config.epsilon_low, 1 + config.epsilon_high
    match config.kind:
        case "ppo":
            negative = advantage < 0
            cap = torch.inf if config.dual_clip is None else config.dual_clip
            floor, ceiling = (
                torch.where(negative, ratio.new_tensor(if_negative), ratio.new_tensor(otherwise))
                for if_negative, otherwise in ((low, -torch.inf), (cap, high))
            )
            bounded = torch.minimum(torch.maximum(ratio, floor), ceiling)
            dead = bounded != ratio
            loss = bounded.mul_(-advantage)
            dual = None if config.dual_clip is None else negative & (ratio > cap)
            return Surrogate(
                loss, loss.masked_fill(dead, 0.0), ratio < low, ratio > high, dead, dual
            )
        case "cispo":
            slope = -ratio.clamp(low, high) * advantage
            return Surrogate(slope * logp, slope, ratio < low, ratio > high)
        case "reinforce":
            slope = -ratio * advantage
            return Surrogate(slope * logp, slope)
        case _:
            assert_never(config.kind)
