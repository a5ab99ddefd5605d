"""Advantages per turn: normalised over the group's turns, summed from each turn on."""

import numpy as np
import pytest
import torch

from alpkit.config.objective import AdvantageConfig
from alpkit.objective import group_advantage, turn_advantage

NAN = float("nan")


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_one_turn_each_is_the_group_advantage(kind):
    rewards, group = torch.tensor([1.0, 0.0, 0.5, 1.0]), torch.tensor([0, 0, 1, 1])
    config = AdvantageConfig(kind=kind)
    torch.testing.assert_close(
        turn_advantage(rewards[:, None], group, config)[:, 0],
        group_advantage(rewards, group, config),
        rtol=0,
        atol=0,
    )


def test_every_turn_has_what_is_earned_from_it_on():
    """Against a double loop in float64, to 1e-6."""
    rewards = torch.tensor([[0.1, 0.0, 1.0], [0.1, NAN, NAN], [0.0, 1.0, NAN], [0.3, 0.2, NAN]])
    group = torch.tensor([0, 0, 0, 1])
    found = turn_advantage(rewards, group, AdvantageConfig())
    values, owner = rewards.double().numpy(), group.numpy()
    for row in range(4):
        own = values[owner == owner[row]]
        own = own[~np.isnan(own)]
        for turn in range(3):
            later = values[row, turn:]
            wanted = ((later - own.mean()) / (own.std(ddof=1) + 1e-6))[~np.isnan(later)].sum()
            wanted = 0.0 if np.isnan(values[row, turn]) else wanted
            assert float(found[row, turn]) == pytest.approx(wanted, abs=1e-6), (row, turn)


def test_a_turn_that_was_not_taken_has_none_whatever_follows():
    rewards = torch.tensor([[0.1, NAN, 1.0], [0.2, 0.3, 0.0]])
    found = turn_advantage(rewards, torch.tensor([0, 0]), AdvantageConfig())
    assert found[0, 1] == 0
    assert found[0, 2] > 0


def test_equal_rewards_everywhere_leave_no_advantage():
    rewards = torch.tensor([[0.7, 0.7], [0.7, NAN]])
    assert not turn_advantage(rewards, torch.tensor([0, 0]), AdvantageConfig()).any()
