"""Intervals and verdicts: formulas against scipy, planted effects found, nulls left alone."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from alpkit.analysis.seeds.verdicts import ENDPOINTS, holm, over_seeds, verdicts


def cells_of(values, seeds):
    rows = [
        {"arm": arm, "seed": seed, "state": "finished", **{e.column: v[i] for e in ENDPOINTS}}
        for arm, v in values.items()
        for i, seed in enumerate(seeds)
    ]
    return pd.DataFrame(rows)


def test_three_seeds_give_the_t_interval():
    values = [0.1, 0.4, 0.3]
    result = over_seeds(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (result.kind, result.n) == ("t", 3)
    np.testing.assert_allclose([result.low, result.high], [low, high])


@pytest.mark.parametrize(
    ("values", "kind", "low", "high"),
    [([0.2, 0.6, np.nan], "range", 0.2, 0.6), ([0.5], "single", 0.5, 0.5)],
)
def test_fewer_seeds_give_points_not_intervals(values, kind, low, high):
    result = over_seeds(values)
    assert (result.kind, result.low, result.high) == (kind, low, high)
    assert result.points == tuple(v for v in values if np.isfinite(v))


def test_no_seed_gives_nothing():
    assert over_seeds([]).kind == "none"
    assert np.isnan(over_seeds([np.nan]).mean)


def test_holm_equals_the_published_step_down_values():
    # Holm 1979 on p = .01, .04, .03, .005: 4*.005, 3*.01, 2*.03, max(.06, .04).
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, np.nan, 0.02]), [0.5, np.nan, 0.04])


def test_planted_effect_is_beyond_noise_and_the_null_pair_is_not(frame):
    pairs = frame.grid.controls.items()
    found = {(v.arm, v.endpoint): v for v in verdicts(frame.cells, pairs)}
    reward = found["seq-alp", "final_reward"]
    # The planted curve reaches 0.1 at the last step: its mean over the last ten is 0.1 * 35.5 / 40.
    assert reward.low < 0.1 * 35.5 / 40 < reward.high
    assert reward.beyond_noise
    assert found["seq-alp", "khat_right"].difference < -0.2
    assert found["seq-alp", "khat_right"].beyond_noise
    assert not any(v.beyond_noise for v in found.values() if v.arm == "token-tis")
    assert "not told apart from seed noise" in found["token-tis", "final_reward"].sentence


def test_two_seeds_give_no_verdict(frame):
    two = frame.cells[frame.cells["seed"] < 2]
    found = verdicts(two, frame.grid.controls.items())
    assert {v.status for v in found} == {"few"}
    assert len(found) == 2 * len(ENDPOINTS)
    reward = next(v for v in found if v[:3] == ("seq-alp", "seq-bypass", "final_reward"))
    assert len(reward.points) == 2
    assert np.isnan(reward.p_holm)
    assert "too few seeds" in reward.sentence


def test_seeds_are_paired_by_seed_not_by_row():
    # Shared seed effects of size 1 hide a constant 0.01 from an unpaired test.
    base = np.array([0.0, 1.0, 2.0, 3.0])
    noise = np.array([0.001, -0.001, 0.0005, -0.0005])
    cells = cells_of({"a": base + 0.01 + noise + 5, "b": base + 5}, [3, 1, 0, 2])
    found = verdicts(cells.sample(frac=1, random_state=0), [("a", "b")])
    by_name = {v.endpoint: v for v in found}
    assert by_name["final_reward"].difference == pytest.approx(0.01)
    assert by_name["final_reward"].p == pytest.approx(
        stats.ttest_rel(base + 0.01 + noise, base).pvalue, rel=1e-6
    )


def test_identical_arms_are_not_tested():
    cells = cells_of({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3]}, [0, 1, 2])
    found = verdicts(cells, [("a", "b")])
    assert {v.status for v in found} == {"equal"}
    assert not any(v.tested or v.beyond_noise for v in found)


def test_holm_counts_every_tested_row_of_the_grid_and_no_other():
    rng = np.random.default_rng(3)
    values = {arm: np.abs(rng.normal(size=4)) + 0.1 for arm in "abc"}
    values["d"] = values["a"]  # equal on every seed: no test, so it costs the others nothing
    found = verdicts(cells_of(values, range(4)), [("b", "a"), ("c", "a"), ("d", "a")])
    tested = [v for v in found if v.tested]
    assert len(tested) == 2 * len(ENDPOINTS)
    np.testing.assert_allclose([v.p_holm for v in tested], holm([v.p for v in tested]))


def null_grid(rng, arms, seeds):
    """Scores of a grid in which nothing differs: shared seed effects, arms' own noise, tied endpoints."""
    shared, own = rng.normal(size=(seeds, 1, 1)), rng.normal(size=(seeds, arms, 1))
    noise = 0.6 * own + 0.8 * rng.standard_t(6, size=(seeds, arms, len(ENDPOINTS)))
    scores = np.exp(0.1 * (shared + noise)).reshape(seeds * arms, -1)
    cells = pd.DataFrame(scores, columns=[e.column for e in ENDPOINTS])
    return cells.assign(
        arm=[f"arm {i}" for i in range(arms)] * seeds,
        seed=np.repeat(np.arange(seeds), arms),
        state="finished",
    )


def test_of_200_null_grids_at_most_16_claim_anything():
    rng = np.random.default_rng(200)
    claims = 0
    for _ in range(200):
        arms = int(rng.integers(2, 7))
        cells = null_grid(rng, arms, int(rng.integers(3, 9)))
        pairs = [(f"arm {i}", "arm 0") for i in range(1, arms)]
        claims += any(v.beyond_noise for v in verdicts(cells, pairs))
    # 10 are expected of a test of size 5 %; Holm over tied endpoints claims fewer, never none of 200.
    assert 1 <= claims <= 16


def test_a_planted_effect_among_nulls_is_still_found():
    rng = np.random.default_rng(5)
    cells = null_grid(rng, 4, 8)
    planted = cells["arm"] == "arm 2"
    cells.loc[planted, "final_reward"] += 2.0
    found = verdicts(cells, [(f"arm {i}", "arm 0") for i in (1, 2, 3)])
    assert [v[:3] for v in found if v.beyond_noise] == [("arm 2", "arm 0", "final_reward")]


def test_tests_outside_the_named_family_are_shown_and_not_counted():
    rng = np.random.default_rng(3)
    values = {arm: rng.normal(size=4) for arm in ("a", "b", "c")}
    cells = cells_of(values, range(4))
    named = verdicts(cells, [("a", "c"), ("b", "c")], family={("a", "c")})
    alone = verdicts(cells, [("a", "c")])
    assert [v.p_holm for v in named if v.arm == "a"] == [v.p_holm for v in alone]
    assert {v.status for v in named if v.arm == "b"} == {"unlisted"}
    assert "not among the tests" in next(v for v in named if v.arm == "b").sentence
