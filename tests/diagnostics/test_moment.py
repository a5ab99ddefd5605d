"""Moment estimator: another way of writing it, known shapes of every sign, and Hill beside it."""

import math

import numpy as np
import pytest
from scipy import stats

from alpkit.diagnostics import hill, moment_estimator


def by_the_book(ratios, k):
    """de Haan & Ferreira 2006, (3.5.9), on the ratios themselves, one sum at a time."""
    largest = sorted(ratios, reverse=True)
    logs = [math.log(value) - math.log(largest[k]) for value in largest[:k]]
    first, second = math.fsum(logs) / k, math.fsum(x * x for x in logs) / k
    return first + 1 - second / (2 * (second - first * first))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_textbook_formula(seed):
    d = np.random.default_rng(seed).standard_t(4, 500) * 0.4
    expected = by_the_book(np.exp(d).tolist(), 60)
    assert moment_estimator(d, 60).estimate == pytest.approx(expected, rel=1e-9)
    assert moment_estimator(-d, 60, side="left").estimate == pytest.approx(expected, rel=1e-9)
    assert moment_estimator(d + 300, 60).estimate == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("xi", [-0.5, -0.2, 0.3, 0.8, 1.5])
def test_it_finds_a_known_shape_of_either_sign(xi):
    """Ratios 1/(1 + u^-xi)-like: GPD draws, whose upper end is finite for xi < 0."""
    n, k = 200_000, 2_000
    x = stats.genpareto.rvs(xi, size=n, random_state=3)
    fit = moment_estimator(np.log(x), k)
    assert fit.estimate == pytest.approx(xi, abs=0.12)
    assert fit.low < fit.estimate < fit.high
    assert fit.status == ("high" if xi > 0.7 else "ok")
    if xi < 0:
        assert hill(np.log(x), k).estimate > 0  # Hill cannot say so


@pytest.mark.parametrize("xi", [-0.3, 0.4])
def test_the_iid_interval_covers_as_often_as_it_says(xi):
    """Pareto and power-end draws, for which the estimate has no bias to speak of at k = 200 of 2,000."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        u = rng.uniform(size=2_000)
        d = -xi * np.log(u) if xi > 0 else np.log(1 - u**-xi)
        fit = moment_estimator(d, 200)
        covered += fit.low < xi < fit.high
    assert 0.82 <= covered / 200 <= 0.97


def test_clusters_widen_its_interval():
    rng = np.random.default_rng(3)
    prompt = np.repeat(np.arange(60), 40)
    d = rng.normal(0, 0.5, 60)[prompt] + 0.2 * rng.exponential(size=2_400)
    alone, grouped = moment_estimator(d, 147), moment_estimator(d, 147, cluster=prompt, n_boot=200)
    assert grouped.estimate == alone.estimate
    assert grouped.high - grouped.low > 1.2 * (alone.high - alone.low)


def test_a_tail_of_one_value_has_no_shape():
    clamped = np.minimum(np.linspace(0, 30, 100), 20.0)
    fit = moment_estimator(np.r_[clamped[clamped < 20], np.full(30, 20.0)], 30)
    assert fit.status == "saturated"
    assert math.isnan(fit.estimate)
