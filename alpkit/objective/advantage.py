"""Turn rewards into advantages relative to the group: GRPO, Dr. GRPO, RLOO."""

from typing import assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alpkit.config.objective import AdvantageConfig


def group_advantage(
    rewards: Float[Tensor, " batch"], group: Int[Tensor, " batch"], config: AdvantageConfig
) -> Float[Tensor, " batch"]:
    """Compute one advantage per response, relative to the responses of its prompt.

    grpo: (r - mean) / (std + 1e-6) with the unbiased std, arXiv:2402.03300 eq. 3; dr_grpo: r - mean,
    arXiv:2503.20783; rloo: r - mean of the others, arXiv:2402.14740. A group whose rewards are all equal
    gives exactly 0; a group of one has mean 0 and std 1.
    """
    _, index, count = group.unique(return_inverse=True, return_counts=True)
    n = count.to(rewards.dtype)
    # Rewards are taken above the group's smallest: the mean of eight times 0.7 is not 0.7 in floats, and
    # dividing that rounding by a std of as little would make a signal of it.
    smallest = torch.zeros_like(n).scatter_reduce(0, index, rewards, "amin", include_self=False)
    above = rewards - torch.where(n > 1, smallest, 0.0)[index]
    total = torch.zeros_like(n).scatter_add(0, index, above)
    mean = torch.where(n > 1, total / n, 0.0)
    centred = above - mean[index]
    match config.kind:
        case "grpo":
            if not config.normalize_std:
                return centred
            square = torch.zeros_like(n).scatter_add(0, index, centred**2)
            std = torch.where(n > 1, (square / (n - 1)).sqrt(), 1.0)
            return centred / (std[index] + 1e-6)
        case "dr_grpo":
            return centred
        case "rloo":
            others = torch.where(n > 1, n / (n - 1), 1.0)
            return centred * others[index]
        case _:
            assert_never(config.kind)


def turn_advantage(
    rewards: Float[Tensor, "batch turn"], group: Int[Tensor, " batch"], config: AdvantageConfig
) -> Float[Tensor, "batch turn"]:
    """Compute one advantage per turn: the normalised rewards of this turn and of all that follow it.

    `rewards` is NaN for turns that a response did not take; their advantage is 0. Every turn's reward is normalised
    over all turns of the group's responses, as `group_advantage` does it, then summed from the last turn back
    (process supervision, arXiv:2402.03300 section 4.1.3). With one turn each it is `group_advantage`.
    """
    taken = ~rewards.isnan()
    owner = group[:, None].expand_as(rewards)
    normalised = torch.zeros_like(rewards)
    normalised[taken] = group_advantage(rewards[taken], owner[taken], config)
    return normalised.flip(1).cumsum(1).flip(1) * taken
