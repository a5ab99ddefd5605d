"""Greedy, avg@k and pass@k against the closed form, with a sampler whose draws are known."""

from itertools import combinations
from math import comb, sqrt
from random import Random

import numpy as np
import pytest

from alpkit.tasks import Item
from alpkit.trainer.evaluate import evaluate

RIGHT, WRONG = 1, 0


class Exact:
    """A task that scores 1 for the answer and 0.25 for anything else: some reward, but not solved."""

    name = "exact"

    def score(self, item, response):
        return 1.0 if response == item.answer else 0.25


def scores(draws, k):
    """`evaluate` where item i's k samples are draws[i], and greedy answers right for every other item."""

    def answer(requests, items, temperature):
        assert len(items) == len(requests)
        if temperature == 0:
            return [str(index % 2) for index in range(len(requests))]
        assert len({request.seed for request in requests}) == len(requests)  # a stream per sample
        return [str(token) for own in draws for token in own]

    found = evaluate(
        task=Exact(),
        items=[Item("", str(RIGHT))] * len(draws),
        prompts=[(index,) for index in range(len(draws))],
        k=k,
        temperature=1.0,
        seed=0,
        answer=answer,
    )
    return {f"eval/{stat}": value for stat, value in found.metrics().items()}


def closed_form(n, c, k):
    """1 - C(n - c, k) / C(n, k): a draw of k from n responses of which c are right holds a right one."""
    return 1 - comb(n - c, k) / comb(n, k)


@pytest.mark.parametrize(("n", "c", "k"), [(6, 2, 3), (6, 1, 2), (7, 3, 1), (5, 0, 2), (5, 5, 2)])
def test_pass_at_k_over_all_draws_is_the_closed_form(n, c, k):
    pool = [RIGHT] * c + [WRONG] * (n - c)
    got = scores(list(combinations(pool, k)), k)
    assert got["eval/pass_at_k"] == pytest.approx(closed_form(n, c, k), abs=1e-12)
    assert got["eval/avg_at_k"] == pytest.approx(0.25 + 0.75 * c / n, abs=1e-12)


def test_pass_at_k_of_random_draws_is_within_two_standard_errors_of_it():
    n, k, items, random = 32, 8, 4000, Random(1)
    right = [random.choice([0, 1, 2, 4, 16]) for _ in range(items)]
    pools = [[RIGHT] * c + [WRONG] * (n - c) for c in right]
    got = scores([random.sample(pool, k) for pool in pools], k)["eval/pass_at_k"]
    expected = np.array([closed_form(n, c, k) for c in right])
    error = sqrt((expected * (1 - expected)).sum()) / items
    assert abs(got - expected.mean()) < 2 * error


def test_avg_at_k_is_the_mean_over_samples_then_items_and_greedy_is_apart():
    draws = [[RIGHT] * 32, [WRONG] * 32, [RIGHT, WRONG] * 16]
    got = scores(draws, 32)
    per_item = [np.mean([1.0 if token else 0.25 for token in own]) for own in draws]
    assert got["eval/avg_at_k"] == pytest.approx(np.mean(per_item), abs=1e-12)
    assert got["eval/greedy"] == pytest.approx((0.25 + 1.0 + 0.25) / 3, abs=1e-12)
    assert got["eval/pass_at_k"] == pytest.approx(2 / 3, abs=1e-12)
