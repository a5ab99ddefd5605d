"""The addition task: operands, answers and the reward's edges."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpkit.tasks import Item
from alpkit.tasks.addition import Addition


@given(st.integers(0, 2**63 - 1), st.integers(1, 9))
def test_operands_have_exactly_the_digits_and_the_oracle_scores_one(key: int, digits: int):
    task = Addition(digits=digits)
    item = task.item("train", key)
    left, right = item.prompt.removesuffix("=").split("+")
    assert len(left) == len(right) == digits
    assert left[0] != "0"
    assert right[0] != "0"
    assert item.answer == str(int(left) + int(right))
    assert task.score(item, item.answer) == 1.0


def test_operands_cover_their_range_evenly():
    left = [int(Addition().item("train", key).prompt[:3]) for key in range(4000)]
    assert min(left) < 105
    assert max(left) > 995
    # Uniform on 100..999: mean 549.5, standard error 4.1.
    assert sum(left) / len(left) == pytest.approx(549.5, abs=17)


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("579", 1.0),
        (" 579\n", 1.0),
        ("0579", 0.0),
        ("579.0", 0.0),
        ("5790", 0.0),
        ("=579", 0.0),
        ("579 580", 0.0),
        ("57 9", 0.0),
        ("", 0.0),
    ],
)
def test_only_the_exact_sum_scores(response: str, reward: float):
    assert Addition().score(Item("123+456=", "579"), response) == reward


def test_a_random_policy_scores_almost_nothing():
    draw = random.Random(0)
    task = Addition()
    rewards = [
        task.score(task.item("train", key), "".join(draw.choices("0123456789+=", k=3)))
        for key in range(3000)
    ]
    assert sum(rewards) / len(rewards) < 0.005
