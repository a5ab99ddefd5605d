"""Per-token losses from a ratio and an advantage, with their slopes: PPO clip, CISPO, REINFORCE.

The slope is written out instead of left to autograd: it is a mask times a number that the loss needs
anyway, so a backward pass costs one multiplication, and no 0 * inf can arise on the way.
"""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.objective import SurrogateConfig
from alpkit.objective.tokens import indicator


class Surrogate(NamedTuple):
    """`loss` per token, to be minimised; `slope`: its derivative with respect to the token's log-prob.

    The rest are float 0/1 marks: ratios `below` and `above` the band, tokens that the bounds left
    `alive`, tokens whose gradient the `dual` clip took. None: this kind has no such bound.
    """

    loss: Float[Tensor, "batch tok"]
    slope: Float[Tensor, "batch tok"]
    below: Float[Tensor, "batch tok"] | None = None
    above: Float[Tensor, "batch tok"] | None = None
    alive: Float[Tensor, "batch tok"] | None = None
    dual: Float[Tensor, "batch tok"] | None = None


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
            alive = indicator(torch.eq, bounded, ratio)
            loss = bounded.mul_(-advantage)
            below, above = _outside(ratio, low, high)
            dual = None
            if config.dual_clip is not None:
                dual = indicator(torch.gt, ratio, config.dual_clip) * negative.to(ratio.dtype)
            return Surrogate(loss, loss * alive, below, above, alive, dual)
        case "cispo":
            slope = -ratio.clamp(low, high) * advantage
            return Surrogate(slope * logp, slope, *_outside(ratio, low, high))
        case "reinforce":
            slope = -ratio * advantage
            return Surrogate(slope * logp, slope)
        case _:
            assert_never(config.kind)


def _outside(
    ratio: Float[Tensor, "batch tok"], low: float, high: float
) -> tuple[Float[Tensor, "batch tok"], Float[Tensor, "batch tok"]]:
    return indicator(torch.lt, ratio, low), indicator(torch.gt, ratio, high)
