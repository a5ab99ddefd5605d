"""Per-token losses from a ratio and an advantage: PPO clip with dual clip, CISPO, REINFORCE."""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from alpkit.config.objective import SurrogateConfig


class Surrogate(NamedTuple):
    """`loss` per token (to be minimised), and which tokens a bound acted on, by side."""

    loss: Float[Tensor, "batch tok"]
    clipped_low: Bool[Tensor, "batch tok"]
    clipped_high: Bool[Tensor, "batch tok"]
    dual_clipped: Bool[Tensor, "batch tok"]


def surrogate(
    log_ratio: Float[Tensor, "batch tok"],
    logp: Float[Tensor, "batch tok"],
    advantage: Float[Tensor, "batch tok"],
    config: SurrogateConfig,
) -> Surrogate:
    """Per-token surrogate loss; `log_ratio` carries the gradient for ppo, `logp` for the others.

    ppo (`spec/alp.md` A.3): max(-A x, -A clip(x)), capped at -A c for A < 0. Its gradient is dead for
    A > 0 above the band, for A < 0 below it, and for A < 0 above c: exactly what the masks mark.
    cispo (arXiv:2506.13585): -sg(clip(x)) A log pi; the masks mark clipped ratios, the gradient lives.
    """
    ratio = log_ratio.exp()
    low, high = 1 - config.epsilon_low, 1 + config.epsilon_high
    below, above = ratio < low, ratio > high
    none = torch.zeros_like(below)
    match config.kind:
        case "ppo":
            loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(low, high))
            negative = advantage < 0
            dual = none
            if config.dual_clip is not None:
                loss = torch.where(
                    negative, torch.minimum(-advantage * config.dual_clip, loss), loss
                )
                dual = negative & (ratio > config.dual_clip)
            return Surrogate(loss, below & negative, above & (advantage > 0), dual)
        case "cispo":
            loss = -ratio.detach().clamp(low, high) * advantage * logp
            return Surrogate(loss, below, above, none)
        case "reinforce":
            return Surrogate(-ratio.detach() * advantage * logp, none, none, none)
        case _:
            assert_never(config.kind)
