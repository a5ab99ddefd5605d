"""Rewards, advantages and metrics of a step's conversations: what several turns add to a batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from alpkit.config import RunConfig
from alpkit.objective import turn_advantage
from alpkit.rollout import Rollout
from alpkit.rollout.turns import Conversation


def response_rewards(scores: Sequence[float], conversations: Sequence[Conversation]) -> list[float]:
    """Add every response's own turn rewards to the task's score for its answer."""
    return [score + sum(each.rewards) for score, each in zip(scores, conversations, strict=True)]


def advantage_of_turns(
    rewards: Sequence[float],
    conversations: Sequence[Conversation],
    rollout: Rollout,
    config: RunConfig,
) -> Float[Tensor, "batch len"]:
    """Give every token its turn's advantage, from the responses' `rewards`.

    The last turn earns what the turns' own rewards leave of it; a response that has lost its reward has lost
    those of its turns.
    """
    turns = [each.response.turns for each in conversations]
    table = torch.full((len(turns), max(turns)), torch.nan)
    for row, (reward, each) in enumerate(zip(rewards, conversations, strict=True)):
        own = torch.zeros(turns[row])
        if reward:
            own[: len(each.rewards)] = torch.tensor(each.rewards)
        own[-1] += reward - own.sum()
        table[row, : turns[row]] = own
    found = turn_advantage(table, rollout.prompt, config.objective.advantage)
    return found.gather(1, rollout.turn) * rollout.response


def void_rows(conversations: Sequence[Conversation], config: RunConfig) -> Bool[Tensor, " batch"]:
    """Mark the responses that are left out of the loss, as `environment.void` says."""
    environment = config.environment
    masks = environment is not None and environment.void == "mask"
    return torch.tensor([masks and each.void for each in conversations])


def conversation_metrics(
    conversations: Sequence[Conversation], config: RunConfig
) -> dict[str, float]:
    """Count turns, void responses, inserted tokens and tool calls; nothing without an environment."""
    if config.environment is None:
        return {}
    n = len(conversations)
    turns = [each.response.turns for each in conversations]
    inserted = [
        len(each.response.token_ids) - sum(each.response.sampled or ()) for each in conversations
    ]
    calls, failed, stopped, answered = (
        sum(each.counts.get(name, 0) for each in conversations)
        for name in ("calls", "failed", "stopped", "answered")
    )
    metrics = {
        "turns/mean": sum(turns) / n,
        "turns/max": float(max(turns)),
        "turns/void": sum(each.void for each in conversations) / n,
        "turns/answered": answered / n,
        "turns/inserted": sum(inserted) / n,
        "turns/reward": sum(sum(each.rewards) for each in conversations) / n,
        "tool/calls": calls / n,
    }
    if calls:
        metrics |= {"tool/failed": failed / calls, "tool/stopped": stopped / calls}
    return metrics
