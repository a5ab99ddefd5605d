"""CCDF: the counted shares, a power law's slope, and a band that knows about clusters."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpkit.diagnostics import ccdf


def test_shares_by_counting():
    d = np.log([0.5, 1.0, 2.0, 4.0])
    grid = np.log([0.25, 1.0, 2.0, 3.0, 8.0])
    right = ccdf(d, log_size=grid)
    np.testing.assert_allclose(right.survival, [1.0, 0.5, 0.25, 0.25, 0.0])
    left = ccdf(d, side="left", log_size=grid)
    np.testing.assert_allclose(left.survival, [0.75, 0.25, 0.0, 0.0, 0.0])
    assert right.n == 4


def test_a_power_law_is_a_straight_line_of_slope_minus_one_over_xi():
    xi = 0.5
    d = xi * np.random.default_rng(0).exponential(size=100_000)
    got = ccdf(d, log_size=np.linspace(0, 3, 30), n_boot=50)
    slope = np.polyfit(got.log_size, np.log(got.survival), 1)[0]
    assert slope == pytest.approx(-1 / xi, rel=0.05)
    truth = np.exp(-got.log_size / xi)
    assert np.mean((got.low <= truth) & (truth <= got.high)) > 0.6


def test_clusters_widen_the_band():
    rng = np.random.default_rng(2)
    prompt = np.repeat(np.arange(40), 25)
    d = rng.normal(0, 0.1, 1_000) + rng.normal(0, 0.3, 40)[prompt]
    grid = np.array([0.2])
    alone, grouped = ccdf(d, log_size=grid), ccdf(d, cluster=prompt, log_size=grid)
    np.testing.assert_array_equal(alone.survival, grouped.survival)
    assert (grouped.high - grouped.low)[0] > 2 * (alone.high - alone.low)[0]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_it_falls_stays_inside_its_band_and_ignores_order(seed):
    rng = np.random.default_rng(seed)
    d, cluster, order = rng.normal(size=60), np.arange(60) // 5, rng.permutation(60)
    got = ccdf(d, cluster=cluster, n_boot=30)
    assert (np.diff(got.survival) <= 0).all()
    assert got.survival[-1] == 0.0
    assert ((0 <= got.low) & (got.low <= got.high) & (got.high <= 1)).all()
    for before, after in zip(got[:4], ccdf(d[order], cluster=cluster[order], n_boot=30)):
        np.testing.assert_allclose(before, after)


def test_awkward_input_never_raises():
    empty = ccdf(np.array([]))
    assert (empty.n, empty.status) == (0, "short")
    assert ccdf(np.array([np.nan, -np.inf])).status == "nonfinite"
    assert np.isnan(empty.survival).all()
    some = ccdf(np.array([0.1, np.nan, np.inf]), cluster=np.array([0, 1, 2]))
    assert (some.n, some.dropped, some.status) == (1, 2, "ok")
    assert np.isnan(some.low).all()  # one cluster is left: no spread to resample
    constant = ccdf(np.zeros(10))
    assert (constant.survival == 0).all()
    assert math.isfinite(constant.high[0])
