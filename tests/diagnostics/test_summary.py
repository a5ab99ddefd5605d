"""The per-step summary: exactly the registered statistics, equal to their definitions, fast."""

import math
import time

import numpy as np
import pytest

from alpkit.diagnostics import divergences, fit_khat, hill, ratio_summary, tail_size
from alpkit.metrics import RATIO_STATS, check_keys

LEVELS = ("token", "geometric", "product")
TAILS = {"hill_right", "hill_left", "khat_right", "khat_left"}


def sample(n=4_000, length=10, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_t(4, n) * 0.1, np.arange(n) // length


@pytest.mark.parametrize("level", LEVELS)
def test_keys_are_the_registered_ones(level):
    got = ratio_summary(*sample(), level=level)
    assert set(got) == set(RATIO_STATS)
    check_keys(f"ratio/raw/{level}/{stat}" for stat in got)
    assert all(type(value) is float and math.isfinite(value) for value in got.values())


def test_values_are_what_the_registry_says():
    d, sequence = sample()
    d[:4] = [25.0, -21.0, 19.9, -19.9]
    got, x = ratio_summary(d, sequence, level="token"), np.exp(d)
    assert got["mean"] == pytest.approx(d.mean(), rel=1e-12)
    assert got["std"] == pytest.approx(d.std(), rel=1e-12)
    assert (got["min"], got["max"]) == (-21.0, 25.0)
    for stat, percent in {
        "p01": 1,
        "p02": 2,
        "p50": 50,
        "p98": 98,
        "p99": 99,
        "p999": 99.9,
    }.items():
        assert got[stat] == pytest.approx(np.percentile(d, percent), abs=1e-12), stat
    assert got["ess"] == pytest.approx(x.sum() ** 2 / (d.size * (x**2).sum()), rel=1e-9)
    assert got["chi2"] == pytest.approx((x**2).mean() - 1, rel=1e-9)
    assert got["top1_share"] == pytest.approx(np.sort(x)[-40:].sum() / x.sum(), rel=1e-9)
    assert got["saturated"] == 2 / 4_000
    k = tail_size(4_000)
    for side in ("right", "left"):
        assert got[f"khat_{side}"] == fit_khat(d, side=side, n_boot=0).estimate
        assert got[f"hill_{side}"] == hill(d, k, side=side).estimate


@pytest.mark.parametrize("level", LEVELS)
def test_levels_agree_with_divergences(level):
    d, sequence = sample()
    got, reference = ratio_summary(d, sequence, level=level), divergences(d, sequence, level=level)
    assert got["ess"] == pytest.approx(reference["ess"], rel=1e-9)
    assert got["chi2"] == pytest.approx(reference["chi2"], rel=1e-9)
    assert got["mean"] == pytest.approx(-reference["k1"], abs=1e-12)


def test_what_cannot_be_computed_is_absent():
    on_policy = ratio_summary(np.zeros(500), np.arange(500), level="token")
    assert set(on_policy) == set(RATIO_STATS) - TAILS
    assert on_policy["ess"] == 1.0
    assert on_policy["chi2"] == on_policy["std"] == 0.0
    assert on_policy["top1_share"] == pytest.approx(0.01)
    one = ratio_summary(np.array([0.5]), np.array([7]), level="product")
    assert one["p999"] == one["min"] == one["max"] == 0.5
    assert TAILS.isdisjoint(one)
    truncated = np.minimum(sample()[0], 0.1)
    assert TAILS & set(ratio_summary(truncated, sample()[1], level="token")) == {
        "hill_left",
        "khat_left",
    }
    for bad in ([], [np.nan, 1.0], [np.inf, 1.0], [-np.inf, np.inf]):
        for level in LEVELS:
            assert ratio_summary(np.array(bad), np.zeros(len(bad), int), level=level) == {}


def test_extreme_ratios_stay_finite():
    d = np.random.default_rng(0).normal(0, 3_000, 500)
    for level in LEVELS:
        got = ratio_summary(d, np.arange(500) // 10, level=level)
        assert all(math.isfinite(value) for value in got.values()), got


def test_a_step_of_3000_tokens_takes_under_ten_milliseconds():
    d, sequence = sample(3_000)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        ratio_summary(d, sequence, level="token")
        times.append(time.perf_counter() - start)
    print(f"ratio_summary of 3,000 tokens: {min(times) * 1e3:.1f} ms")
    assert min(times) < 0.010
