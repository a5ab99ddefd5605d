"""Envelopes: equal counts, the right quantiles, and a planted spread at low probability."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpkit.diagnostics import envelope


def test_bins_hold_equal_counts_and_their_quantiles():
    rng = np.random.default_rng(0)
    mu, d = -rng.exponential(1, 1_000), rng.normal(size=1_000)
    got = envelope(mu, d, bins=10)
    assert got.items.tolist() == [100] * 10
    assert (np.diff(got.centre) > 0).all()
    lowest = np.argsort(mu)[:100]
    np.testing.assert_allclose(got.centre[0], np.median(mu[lowest]))
    np.testing.assert_allclose(
        [got.low[0], got.median[0], got.high[0]], np.quantile(d[lowest], [0.02, 0.5, 0.98])
    )
    assert got.dropped == 0
    assert envelope(mu, d).items.tolist() == [20] * 50


def test_a_planted_spread_at_low_probability_is_seen_there():
    rng = np.random.default_rng(1)
    mu = -rng.exponential(1, 5_000)
    got = envelope(mu, rng.normal(size=5_000) * np.where(mu < -2, 1.0, 0.05), bins=20)
    width = got.high - got.low
    assert width[got.centre < -2.2].min() > 10 * width[got.centre > -1.8].max()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_order_does_not_matter_even_with_ties(seed):
    rng = np.random.default_rng(seed)
    mu, d = -rng.integers(0, 6, 60).astype(float), rng.normal(size=60)
    order = rng.permutation(60)
    for before, after in zip(envelope(mu, d, bins=5), envelope(mu[order], d[order], bins=5)):
        np.testing.assert_array_equal(before, after)
    edges = np.array([-5.0, -3.0, -0.5])
    fixed, same = (envelope(mu[i], d[i], edges=edges) for i in (slice(None), order))
    for before, after in zip(fixed, same):
        np.testing.assert_array_equal(before, after)
    assert fixed.items.sum() + fixed.dropped == 60
    assert envelope(mu, d, bins=5).items.sum() == 60


def test_fixed_edges_keep_their_place_and_skip_empty_bins():
    entropy = np.array([0.0, 0.5, 1.0, 1.9, 4.0, 5.0])
    got = envelope(entropy, np.arange(6.0), edges=np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    assert got.left.tolist() == [0.0, 1.0, 3.0]
    assert got.right.tolist() == [1.0, 2.0, 4.0]
    assert got.items.tolist() == [2, 2, 1]
    assert got.median.tolist() == [0.5, 2.5, 4.0]
    assert got.dropped == 1
    assert envelope(entropy, np.zeros(6), edges=np.array([7.0, 8.0])).status == "short"
    by_position = envelope(np.arange(6), np.arange(6.0), bins=2)
    assert by_position.left.tolist() == [0.0, 3.0]
    assert by_position.right.tolist() == [2.0, 5.0]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_short_and_non_finite_input(n):
    mu, d = np.full(n, -1.0), np.zeros(n)
    got = envelope(mu, d)
    assert got.items.sum() == n
    assert len(got.centre) == len(got.low) == len(got.high) == len(got.median) == min(n, 1)
    bad = envelope(np.r_[mu, -1.0, -np.inf], np.r_[d, np.nan, 0.0])
    assert bad.dropped == 2
    assert (got.status, bad.status) == (("ok", "ok") if n else ("short", "nonfinite"))
    assert bad.items.sum() == n
