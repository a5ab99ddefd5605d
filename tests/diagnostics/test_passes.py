"""pass@k against brute force over all subsets, and intervals over problems against scipy."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from alpkit.diagnostics.passes import mean_over_problems, pass_at_k, reach_over_sets


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples):
    for solved in range(samples + 1):
        draws = [True] * solved + [False] * (samples - solved)
        got = pass_at_k([solved], samples)[0]
        for k in range(1, samples + 1):
            subsets = list(combinations(draws, k))
            assert got[k - 1] == pytest.approx(np.mean([any(s) for s in subsets]), abs=1e-12)


def test_pass_at_k_of_hundreds_of_samples_stays_exact_and_rises():
    curve = pass_at_k([0, 1, 128, 256], 256)
    assert (curve[0] == 0).all()
    np.testing.assert_allclose(curve[1], np.arange(1, 257) / 256, atol=1e-10)
    assert (np.diff(curve[2]) >= 0).all()
    assert (curve[3] == 1).all()


def test_intervals_are_over_problems_not_over_samples():
    rewards = np.random.default_rng(0).random((12, 50))
    found = mean_over_problems(rewards.mean(axis=1))
    wanted = stats.ttest_1samp(rewards.mean(axis=1), 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(rewards.mean(), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert found.problems == 12


def test_the_interval_covers_where_samples_of_a_problem_agree():
    """400 data sets of 40 problems whose 20 samples are all alike: naive intervals would cover 35 %."""
    draw = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        values = np.repeat(draw.random(40) < 0.4, 20).reshape(40, 20).mean(axis=1)
        found = mean_over_problems(values)
        hits += found.low <= 0.4 <= found.high
    assert 0.91 <= hits / 400 <= 0.98


def test_one_problem_has_no_interval():
    found = mean_over_problems([1.0])
    assert found.mean == 1
    assert np.isnan(found.low)


def test_over_sets_the_reach_is_welchs():
    draw = np.random.default_rng(2)
    easy, hard = draw.normal(1.0, 0.2, 30), draw.normal(0.0, 1.0, 9)
    # Half the sum is half the difference from the mirrored set, of which scipy knows the interval.
    wanted = stats.ttest_ind(easy, -hard, equal_var=False).confidence_interval(0.95)
    reach = reach_over_sets([easy[:, None], hard[:, None]])
    assert reach == pytest.approx([(wanted.high - wanted.low) / 4], rel=1e-10)
    one = mean_over_problems(easy)
    assert reach_over_sets([easy[:, None]]) == pytest.approx([one.high - one.mean], rel=1e-10)
    assert reach_over_sets([np.ones((5, 1))]) == [0.0]
    assert np.isnan(reach_over_sets([easy[:, None], hard[:1, None]])).all()
