"""The groups of a step: one prompt's responses and rewards, and which of them teach anything.

A group whose rewards are all equal has no advantage. It may be left out, or another prompt may take its place
(`rollout.filter.zero_variance`). Not here: asking and scoring (`collect`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.filters import FilterConfig, Overlong
from alpkit.rollout import Request, Response
from alpkit.rollout.turns import Conversation
from alpkit.tasks import Item


class Group(NamedTuple):
    """One prompt with its responses; `graded`: what they earned, `rewards`: what they are trained with."""

    item: Item
    requests: Sequence[Request]
    conversations: Sequence[Conversation]
    graded: Sequence[float]
    rewards: Sequence[float]

    @property
    def responses(self) -> list[Response]:
        """List the responses of the conversations, which may be of one turn."""
        return [each.response for each in self.conversations]

    @property
    def flat(self) -> bool:
        """Whether all rewards are equal, so that no response has an advantage."""
        return len(set(self.rewards)) == 1


Again = Callable[[int, Sequence[int], Sequence[str]], list[Group]]
"""Asks other prompts: (number of the further draw, places, prompts that are taken) -> a group for each place."""


class Selected(NamedTuple):
    """A step's groups, whether each is trained on, and what was touched to get there."""

    groups: list[Group]
    trained: list[bool]
    receipt: dict[str, float]


def select(first: Sequence[Group], chosen: FilterConfig, again: Again) -> Selected:
    """Apply the zero-variance filter to the first draw of a step, place by place."""
    groups = list(first)
    if chosen.zero_variance == "keep":
        return Selected(groups, [True] * len(groups), {})
    receipt: dict[str, float] = {}
    if chosen.zero_variance == "refill":
        taken = [group.item.prompt for group in groups]
        for draw in range(1, chosen.rounds + 1):
            places = [place for place, group in enumerate(groups) if group.flat]
            if not places:
                break
            others = again(draw, places, taken)
            taken += [group.item.prompt for group in others]
            for place, group in zip(places, others, strict=True):
                groups[place] = groups[place] if group.flat else group
        replaced = sum(old is not new for old, new in zip(first, groups, strict=True))
        receipt["receipt/refilled_groups"] = replaced / len(first)
    trained = [not group.flat for group in groups]
    receipt["receipt/dropped_groups"] = trained.count(False) / len(first)
    return Selected(groups, trained, receipt)


def rewarded(
    graded: Sequence[float], responses: Sequence[Response], overlong: Overlong
) -> list[float]:
    """Give what responses are trained with: what they earned, or 0 where they were cut off and that is asked."""
    if overlong != "zero_reward":
        return list(graded)
    return [
        0.0 if cut_off(response) else reward
        for reward, response in zip(graded, responses, strict=True)
    ]


def rewards_of(groups: Sequence[Group]) -> Float[Tensor, " batch"]:
    """Line up the rewards that all responses are trained with."""
    return torch.tensor([reward for group in groups for reward in group.rewards])


def overlong_receipt(groups: Sequence[Group], overlong: Overlong) -> dict[str, float]:
    """Return receipt/overlong, the share of responses that were masked or lost a reward; empty where all are kept."""
    if overlong == "keep":
        return {}
    touched = [
        cut_off(response) and (overlong == "mask" or graded != 0)
        for group in groups
        for response, graded in zip(group.responses, group.graded, strict=True)
    ]
    return {"receipt/overlong": sum(touched) / len(touched)}


def cut_off(response: Response) -> bool:
    """Whether a response met its token limit before it ended."""
    return response.finish == "length"
