"""What turns earn: the last one what is left of the response's reward, and nothing where that was lost."""

import pytest
import torch

from alpkit.config import RunConfig
from alpkit.rollout import Request, Response, collate
from alpkit.rollout.turns import Conversation
from alpkit.trainer.conversations import advantage_of_turns, conversation_metrics, response_rewards

CONFIG = RunConfig.model_validate(
    {
        "task": {"name": "math"},
        "environment": {"credit": "turn"},
        "rollout": {"max_tokens": 64},
        "objective": {"advantage": {"kind": "dr_grpo"}},
    }
)
TWO = Response((5, 9, 6), (-1.0, 0.0, -1.0), "stop", (True, False, True), (0, 1, 1))
ONE = Response((5,), (-1.0,), "length", (True,), (0,))


def advantages(rewards, conversations):
    rollout = collate(
        [Request((1,), 0)] * len(conversations),
        [each.response for each in conversations],
        prompt=[0] * len(conversations),
        pad_id=0,
        policy_version=0,
    )
    return advantage_of_turns(rewards, conversations, rollout, CONFIG)


def test_every_turn_has_what_is_earned_from_it_on():
    told = [Conversation(TWO, "", rewards=(0.25, 0.0)), Conversation(ONE, "", rewards=(0.0,))]
    found = advantages(response_rewards([1.0, 0.0], told), told)
    mean = (0.25 + 1.0 + 0.0) / 3
    # Prompt, first turn, inserted, second turn; the second response has one turn and padding.
    wanted = [[0, 1.25 - 2 * mean, 0, 1 - mean], [0, -mean, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=1e-6)


def test_a_response_that_lost_its_reward_has_lost_that_of_its_turns():
    told = [Conversation(TWO, "", rewards=(0.25, 0.0)), Conversation(TWO, "", rewards=(0.25, 0.0))]
    found = advantages([0.0, 1.25], told)
    mean = 1.25 / 4
    assert found[0, 1].item() == pytest.approx(-2 * mean, abs=1e-6)
    assert found[0, 3].item() == pytest.approx(-mean, abs=1e-6)


def test_metrics_count_turns_calls_and_what_was_put_in():
    told = [
        Conversation(TWO, "", rewards=(0.25, 0.0), counts={"calls": 1, "failed": 1, "answered": 1}),
        Conversation(ONE, "", void=True, rewards=(0.0,), counts={"answered": 0}),
    ]
    assert conversation_metrics(told, CONFIG) == {
        "turns/mean": 1.5,
        "turns/max": 2.0,
        "turns/void": 0.5,
        "turns/answered": 0.5,
        "turns/inserted": 0.5,
        "turns/reward": 0.125,
        "tool/calls": 0.5,
        "tool/failed": 1.0,
        "tool/stopped": 0.0,
    }
    assert conversation_metrics(told, RunConfig()) == {}
