"""QQ against the exponential: the plotting positions, a straight line, and lines that bend."""

import math

import numpy as np
import pytest

from alpkit.diagnostics import hill, qq_exponential


def test_points_by_hand():
    d = np.array([0.0, 1.0, 2.0, 4.0, 7.0, 11.0])
    got = qq_exponential(d, k=5)
    np.testing.assert_allclose(got.observed, [11, 7, 4, 2, 1])
    harmonic = [sum(1 / j for j in range(i, 6)) for i in range(1, 6)]
    np.testing.assert_allclose(got.expected, harmonic)
    slope, _ = np.polyfit(harmonic, [11, 7, 4, 2, 1], 1)
    assert got.estimate == pytest.approx(slope)
    assert got.linearity == pytest.approx(np.corrcoef(harmonic, got.observed)[0, 1])
    assert (got.n, got.n_tail, got.threshold, got.status) == (6, 5, 0.0, "high")
    left = qq_exponential(-d, side="left", k=5)
    np.testing.assert_array_equal(left.observed, got.observed)


def test_expected_positions_are_the_means_of_order_statistics():
    draws = np.sort(np.random.default_rng(0).exponential(size=(20_000, 20)), axis=1)[:, ::-1]
    got = qq_exponential(np.arange(21.0), k=20)
    np.testing.assert_allclose(got.expected, draws.mean(axis=0), rtol=0.03)


def test_a_power_law_is_straight_with_slope_xi_and_mostly_inside_its_band():
    slopes, inside = [], []
    for seed in range(100):
        d = 0.6 * np.random.default_rng(seed).exponential(size=2_500)
        got = qq_exponential(d)
        slopes.append(got.estimate)
        inside.append(np.mean((got.band_low <= got.observed) & (got.observed <= got.band_high)))
    # Kratz & Resnick: asymptotic standard deviation xi sqrt(2/k)
    assert np.mean(slopes) == pytest.approx(0.6, abs=0.05)
    assert np.std(slopes) == pytest.approx(0.6 * math.sqrt(2 / 150), rel=0.3)
    # the band is scaled by the same tail's mean, so that the points lie inside more often than 90 %
    assert 0.93 < np.mean(inside) < 0.99
    assert got.linearity > 0.98
    assert got.estimate == pytest.approx(hill(d, got.n_tail).estimate, rel=0.25)


def test_lighter_and_heavier_tails_bend():
    rng = np.random.default_rng(0)
    for d, bends_down in ((rng.normal(size=100_000), True), (rng.standard_t(3, 100_000), False)):
        got = qq_exponential(d)
        half = got.n_tail // 2
        outer = np.polyfit(got.expected[:half], got.observed[:half], 1)[0]
        inner = np.polyfit(got.expected[half:], got.observed[half:], 1)[0]
        assert (outer < inner) == bends_down


def test_no_tail_no_points():
    got = qq_exponential(np.zeros(100))
    assert got.status == "flat"
    assert got.observed.size == got.expected.size == got.band_low.size == 0
    assert math.isnan(got.estimate)
