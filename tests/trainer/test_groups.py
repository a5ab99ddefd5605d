"""Which groups and questions a step trains on, on hand-made groups and tasks."""

from dataclasses import dataclass

import pytest
import torch

from alpkit.config.filters import FilterConfig
from alpkit.errors import ConfigError
from alpkit.rollout import Request, Response, collate
from alpkit.rollout.turns import Conversation
from alpkit.tasks import Item, ListedTask
from alpkit.tasks.grading import ExactGrader
from alpkit.trainer.batches import Batch, cut
from alpkit.trainer.groups import Group, overlong_receipt, rewarded, select
from alpkit.trainer.prompts import Prompts

STOPPED, CUT_OFF = Response((1,), (-0.5,), "stop"), Response((1, 2), (-0.5, -0.5), "length")


def group(name, *rewards):
    answers = [Conversation(STOPPED, "")] * len(rewards)
    return Group(Item(name, ""), [Request((1,), 0)] * len(rewards), answers, rewards, rewards)


class Again:
    """Gives the groups of each further draw, and keeps what it was asked for."""

    def __init__(self, *draws):
        self.draws, self.asked = list(draws), []

    def __call__(self, draw, places, taken):
        self.asked.append((draw, list(places), list(taken)))
        return self.draws[draw - 1]


FIRST = [group("a", 0, 1), group("b", 0, 0), group("c", 1, 1), group("d", 1, 0)]


def test_kept_groups_are_the_first_draw():
    again = Again()
    assert select(FIRST, FilterConfig(), again) == (FIRST, [True] * 4, {})
    assert again.asked == []


def test_equal_rewards_are_dropped_and_counted():
    again = Again()
    found = select(FIRST, FilterConfig(zero_variance="drop"), again)
    assert found.groups == FIRST
    assert found.trained == [True, False, False, True]
    assert found.receipt == {"receipt/dropped_groups": 0.5}
    assert again.asked == []


def test_refill_asks_for_the_places_that_are_left_until_they_teach_or_the_rounds_are_over():
    flat, good = group("e", 0, 0), group("f", 0, 1)
    again = Again([flat, good], [group("g", 1, 1)], [group("h", 0, 0)])
    found = select(FIRST, FilterConfig(zero_variance="refill", rounds=3), again)
    assert again.asked == [
        (1, [1, 2], ["a", "b", "c", "d"]),
        (2, [1], ["a", "b", "c", "d", "e", "f"]),
        (3, [1], ["a", "b", "c", "d", "e", "f", "g"]),
    ]
    assert [g.item.prompt for g in found.groups] == ["a", "b", "f", "d"]
    assert found.trained == [True, False, True, True]
    assert found.receipt == {"receipt/refilled_groups": 0.25, "receipt/dropped_groups": 0.25}
    early = Again([group("e", 0, 1), good])
    found = select(FIRST, FilterConfig(zero_variance="refill"), early)
    assert len(early.asked) == 1
    assert found.receipt == {"receipt/refilled_groups": 0.5, "receipt/dropped_groups": 0}


def test_a_response_that_was_cut_off_loses_its_reward_or_its_place():
    responses, graded = [STOPPED, CUT_OFF, CUT_OFF], [1.0, 1.0, 0.0]
    assert rewarded(graded, responses, "keep") == rewarded(graded, responses, "mask") == graded
    assert rewarded(graded, responses, "zero_reward") == [1.0, 0.0, 0.0]
    answers = [Conversation(response, "") for response in responses]
    whole = [Group(Item("", ""), [], answers, graded, graded)]
    assert overlong_receipt(whole, "keep") == {}
    # Two were cut off; one of them had a reward to lose.
    assert overlong_receipt(whole, "mask") == {"receipt/overlong": pytest.approx(2 / 3)}
    assert overlong_receipt(whole, "zero_reward") == {"receipt/overlong": pytest.approx(1 / 3)}


@dataclass(frozen=True)
class MadeUp:
    """Questions of one to nine characters."""

    name: str = "made-up"

    def item(self, split, key):
        return Item(f"{key % 1000:03d}"[-1:] * (1 + key % 9), "")

    def score(self, item, response):
        return 0.0


def characters(item):
    return tuple(range(len(item.prompt)))


def test_made_up_questions_are_drawn_until_they_are_short_enough():
    prompts = Prompts(MadeUp(), characters, seed=3, limit=4)
    free = Prompts(MadeUp(), characters, seed=3, limit=None)
    items, others = prompts.of_step(1, 8), free.of_step(1, 8)
    assert max(len(item.prompt) for item in items) <= 4 < max(len(i.prompt) for i in others)
    # Those that were short anyway are the same: only the others are drawn anew.
    assert [a for a, b in zip(items, others, strict=True) if len(b.prompt) <= 4] == [
        b for b in others if len(b.prompt) <= 4
    ]
    share = prompts.receipt()["receipt/long_prompts"]
    assert 0.2 < share < 0.9
    assert prompts.receipt() == {"receipt/long_prompts": 0}  # nothing drawn since
    assert free.receipt() == {}
    assert Prompts(MadeUp(), characters, seed=3, limit=4).of_step(1, 8) == items
    with pytest.raises(ConfigError, match="makes up no question"):
        Prompts(MadeUp(), lambda item: (0,) * 9, seed=3, limit=4).of_step(1, 1)


def test_a_list_is_thinned_out_once():
    items = tuple(Item("x" * length, "") for length in range(1, 11))
    task = ListedTask("listed", items, (), ExactGrader())
    prompts = Prompts(task, characters, seed=0, limit=4)
    asked = [item.prompt for step in (1, 2) for item in prompts.of_step(step, 2)]
    assert sorted(asked) == ["x", "xx", "xxx", "xxxx"]
    for _ in range(2):
        assert prompts.receipt() == {"receipt/long_prompts": 0.6}
    with pytest.raises(ConfigError, match="no prompt of at most 0 tokens"):
        Prompts(task, characters, seed=0, limit=0)


def test_further_draws_depend_on_seed_step_draw_and_place_and_repeat_nothing():
    task = MadeUp()

    def again(step=1, draw=1, places=(0, 1, 2), seed=0, taken=()):
        prompts = Prompts(task, characters, seed=seed, limit=None)
        return [item.prompt for item in prompts.again(step, draw, places, taken)]

    first = again()
    assert len(set(first)) == 3
    assert again() == first
    assert again(places=(0, 2))[0] == first[0]
    assert len({tuple(first), *map(tuple, (again(2), again(draw=2), again(seed=1)))}) == 4
    assert not set(again(taken=first)) & set(first)


def test_rows_without_a_token_to_train_on_take_part_in_no_forward():
    lengths = [3, 1, 5, 2, 4, 4, 2, 6]
    requests = [Request((1, 2), 0)] * 8
    responses = [Response((3,) * n, (-1.0,) * n, "stop") for n in lengths]
    rollout = collate(
        requests, responses, prompt=[i // 2 for i in range(8)], pad_id=0, policy_version=0
    )
    used = torch.tensor([1, 1, 0, 0, 0, 0, 0, 0], dtype=torch.bool)
    batch = Batch(
        step=1,
        rollout=rollout,
        responses=tuple(responses),
        valid=rollout.response & used[:, None],
        reward=torch.zeros(8),
        advantage=torch.zeros(8),
    )
    for padded in (False, True):
        plan = cut(batch, updates=2, tokens=100, padded=padded)
        # The second mini-batch has nothing to train on: its shortest row alone is scored.
        assert [sorted(torch.cat([m.sample for m in micros]).tolist()) for micros in plan] == [
            [0, 1],
            [6],
        ]
        assert [m.update for micros in plan for m in micros] == [0, 1]
        assert sum(int(m.valid.sum()) for micros in plan for m in micros) == 4
