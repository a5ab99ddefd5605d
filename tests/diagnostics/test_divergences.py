"""Divergences: the specification's numbers, lognormal identities, and nothing overflows."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alpkit.diagnostics import divergences
from alpkit.diagnostics.divergences import KEYS

LOG_RATIOS = hnp.arrays(float, st.integers(1, 40), elements=st.floats(-1e4, 1e4))


def test_fixture_x(fixture_x):
    got = divergences(fixture_x["mismatch"], fixture_x["sequence"])
    expected = {
        "n": 10,
        "k1": 0.136000,
        "k3": 0.046504,
        "chi2": -0.122240,
        "ess": 0.944469,
        "log_ppl_diff": 0.147778,
        "log_ppl_diff_abs": 0.185556,
        "log_ppl_diff_max": 0.47,
        "log_ppl_diff_min": -0.056667,
        "ppl_ratio": 1.191786,
        "zero_share": 0.0,
    }
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, abs=5.1e-7), key
    product = divergences(fixture_x["mismatch"], fixture_x["sequence"], level="product")
    assert product["chi2"] == pytest.approx(-0.249606, abs=5.1e-7)
    assert product["n"] == 3


def test_formulas_in_linear_space():
    d = np.array([0.0, 0.3, -0.5, 1.2])
    x, got = np.exp(d), divergences(d, np.array([0, 0, 1, 1]))
    assert got["k2"] == pytest.approx(np.mean(d**2) / 2, rel=1e-14)
    assert got["reverse_kl"] == pytest.approx(np.mean(x * d - x + 1), rel=1e-13)
    assert got["chi2_self"] == pytest.approx(np.mean(x**2) / np.mean(x) ** 2 - 1, rel=1e-13)
    assert got["mult_prob_error"] == pytest.approx(np.mean(np.exp(np.abs(d))), rel=1e-13)
    assert got["zero_share"] == 0.25
    assert set(got) == set(KEYS)


@pytest.mark.parametrize(("s", "chi2", "ess"), [(0.5, 0.284, 0.779), (1.0, 1.718, 0.368)])
def test_lognormal_identities(s, chi2, ess):
    """Sums of T tokens N(-v/2, v) with T v = s^2 have chi2 = e^(s^2) - 1 and ess = e^(-s^2)."""
    rng = np.random.default_rng(3)
    tokens, sequences = 8, 400_000
    v = s * s / tokens
    d = rng.normal(-v / 2, math.sqrt(v), tokens * sequences)
    got = divergences(d, np.repeat(np.arange(sequences), tokens), level="product")
    # four standard errors of mean(x^2): sqrt((E x^4 - (E x^2)^2) / n)
    tolerance = 4 * math.sqrt((math.exp(6 * s * s) - math.exp(2 * s * s)) / sequences)
    assert got["chi2"] == pytest.approx(chi2, abs=tolerance + 5e-4)
    assert got["ess"] == pytest.approx(ess, abs=tolerance * ess**2 + 5e-4)
    assert got["k1"] == pytest.approx(s * s / 2, abs=4 * s / math.sqrt(sequences))
    assert got["k3"] == pytest.approx(s * s / 2, rel=0.02)


def test_counts_of_items_outside_and_quantiles():
    d = np.r_[np.log([0.4, 0.5, 1.0, 2.0, 3.0, 4.0]), 20.0, -25.0]
    got = divergences(d, np.arange(8))
    assert got["below_band"] == 2 / 8  # strict: 0.5 itself is inside
    assert got["above_band"] == 3 / 8
    assert got["saturated"] == 2 / 8
    assert got["zero_share"] == 1 / 8
    assert got["nonfinite"] == 0
    for name, q in (("p01", 0.01), ("p02", 0.02), ("p50", 0.5), ("p98", 0.98), ("p999", 0.999)):
        assert got[name] == pytest.approx(np.quantile(d, q))
    own = divergences(d, np.arange(8), band=(0.0, 3.5))
    assert (own["below_band"], own["above_band"]) == (0.0, 2 / 8)


def test_tiny_log_ratios_keep_their_digits():
    d = np.array([1e-8, -1e-8])
    got = divergences(d, np.array([0, 1]))
    assert got["k3"] == pytest.approx(5e-17, rel=1e-6)
    assert got["reverse_kl"] == pytest.approx(5e-17, rel=0.5)  # cancellation at 1e-16 of 1
    assert got["k2"] == pytest.approx(5e-17, rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(LOG_RATIOS, st.data())
def test_nothing_overflows_and_bounds_hold(d, data):
    n = d.size
    sequence = data.draw(hnp.arrays(np.int64, n, elements=st.integers(-3, 3)))
    for level in ("token", "geometric", "product"):
        got = divergences(d, sequence, level=level)
        assert all(math.isfinite(value) for value in got.values()), got
        assert 1 / got["n"] * (1 - 1e-9) <= got["ess"] <= 1
        for key in ("k2", "k3", "reverse_kl", "chi2_self"):
            assert got[key] >= -1e-9, key
        assert got["mult_prob_error"] >= 1 - 1e-12


@settings(deadline=None, max_examples=40)
@given(LOG_RATIOS, st.randoms(use_true_random=False))
def test_order_of_tokens_and_names_of_sequences_do_not_matter(d, random):
    sequence = np.arange(d.size) // 3
    order = np.array(random.sample(range(d.size), d.size))
    for level in ("token", "geometric", "product"):
        before = divergences(d, sequence, level=level)
        after = divergences(d[order], 1000 - 7 * sequence[order], level=level)
        for key in KEYS:
            assert after[key] == pytest.approx(before[key], rel=1e-6, abs=1e-8), key


def test_capped_values_are_the_largest_float():
    got = divergences(np.array([1e4, 0.0]), np.array([0, 1]))
    assert got["k3"] == got["chi2"] == got["reverse_kl"] == np.finfo(float).max
    assert got["ess"] == pytest.approx(0.5)
    assert got["chi2_self"] == pytest.approx(1.0)


@pytest.mark.parametrize("level", ["token", "geometric", "product"])
@pytest.mark.parametrize("bad", [[], [np.nan, 0.0], [np.inf, 0.0], [-np.inf, np.inf]])
def test_empty_and_non_finite_input_is_nan_and_never_raises(bad, level):
    got = divergences(np.array(bad), np.zeros(len(bad), int), level=level)
    assert all(math.isnan(got[key]) for key in KEYS if key not in ("n", "nonfinite"))
    expected = len(bad) if level == "token" else bool(bad)
    assert got["n"] == expected
    assert got["nonfinite"] == (
        np.count_nonzero(~np.isfinite(bad)) if level == "token" else expected
    )


def test_one_token_and_a_constant():
    for d in (np.array([0.0]), np.zeros(5), np.full(5, 0.25)):
        got = divergences(d, np.arange(d.size))
        assert got["ess"] == pytest.approx(1.0)
        assert got["chi2_self"] == pytest.approx(0.0, abs=1e-12)
        assert got["k1"] == -d[0]
