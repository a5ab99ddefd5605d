"""Probability gap: the specification's perplexities, formulas in linear space, and odd input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpkit.diagnostics import divergences, probability_gap
from alpkit.diagnostics.gaps import KEYS


def test_fixture_x(fixture_x):
    rollout, sequence = fixture_x["rollout"], fixture_x["sequence"]
    got = probability_gap(rollout + fixture_x["mismatch"], rollout, sequence)
    assert got["ppl"] == pytest.approx(5.687214, abs=5.1e-7)
    assert got["ppl_rollout"] == pytest.approx(4.347138, abs=5.1e-7)


def test_formulas_in_linear_space():
    rng = np.random.default_rng(0)
    m, sequence = rng.uniform(0.01, 1, 200), np.arange(200) // 8
    p = np.clip(m * rng.lognormal(0, 0.1, 200), 0, 1)
    got = probability_gap(np.log(p), np.log(m), sequence)
    assert got["prob_gap"] == pytest.approx(np.abs(p - m).mean())
    assert got["prob_gap_max"] == pytest.approx(np.abs(p - m).max())
    assert got["prob_gap_std"] == pytest.approx(np.abs(p - m).std())
    assert got["prob_gap_signed"] == pytest.approx((p - m).mean())
    assert got["correlation"] == pytest.approx(np.corrcoef(p, m)[0, 1])
    assert got["log_correlation"] == pytest.approx(np.corrcoef(np.log(p), np.log(m))[0, 1])
    product = probability_gap(np.log(p), np.log(m), sequence, level="product")
    products = [np.prod(v.reshape(25, 8), axis=1) for v in (p, m)]
    assert product["prob_gap"] == pytest.approx(np.abs(products[0] - products[1]).mean())
    assert product["n"] == 25


def test_the_log_correlation_sees_what_near_certain_tokens_hide():
    rng = np.random.default_rng(1)
    log_m = np.where(rng.uniform(size=5_000) < 0.9, -1e-3, -rng.uniform(4, 12, 5_000))
    log_p = np.where(log_m < -1, log_m + rng.normal(0, 2, 5_000), log_m)
    got = probability_gap(np.minimum(log_p, -1e-6), log_m, np.arange(5_000))
    assert got["correlation"] > 0.99
    assert 1 - got["log_correlation"] > 5 * (1 - got["correlation"])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(["token", "geometric", "product"]))
def test_bounds_order_and_the_ppl_family(seed, level):
    rng = np.random.default_rng(seed)
    log_m, sequence, order = -rng.exponential(3, 60), np.arange(60) // 7, rng.permutation(60)
    log_p = -rng.exponential(3, 60)
    got = probability_gap(log_p, log_m, sequence, level=level)
    assert 0 <= got["prob_gap"] <= got["prob_gap_max"] <= 1
    assert abs(got["prob_gap_signed"]) <= got["prob_gap"] + 1e-15
    assert -1 <= got["log_correlation"] <= 1
    assert min(got["ppl"], got["ppl_rollout"]) >= 1
    moved = probability_gap(log_p[order], log_m[order], sequence[order], level=level)
    assert moved == pytest.approx(got, rel=1e-9)
    # of one sequence the log of the mean perplexity is the mean log perplexity
    one = probability_gap(log_p, log_m, np.zeros(60, int))
    same = divergences(log_p - log_m, np.zeros(60, int))["log_ppl_diff"]
    assert math.log(one["ppl"] / one["ppl_rollout"]) == pytest.approx(same, abs=1e-9)


@pytest.mark.parametrize("bad", [[], [math.nan, -1.0], [-math.inf, -1.0], [math.inf, -1.0]])
def test_empty_and_non_finite_input_is_counted(bad):
    got = probability_gap(np.array(bad), np.full(len(bad), -1.0), np.arange(len(bad)))
    assert (got["n"], got["nonfinite"]) == (len(bad), bool(bad))
    assert all(math.isnan(got[key]) for key in KEYS[2:])


def test_on_policy_and_one_token():
    one = probability_gap(np.array([-1.0]), np.array([-1.0]), np.array([0]))
    assert one["prob_gap"] == one["prob_gap_std"] == 0.0
    assert math.isnan(one["correlation"])
    log_m = -np.arange(1.0, 9.0)
    same = probability_gap(log_m, log_m, np.arange(8))
    assert same["correlation"] == same["log_correlation"] == 1.0
