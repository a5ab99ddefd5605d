"""Beyond float64 the answer is its largest number, and K3 is the same on both sides of its guard."""

import math
import sys

import numpy as np
import pytest

from alpkit.diagnostics.overflow import K3_CAP, exp_capped, expm1_capped, k3_terms, mean_k3


@pytest.mark.parametrize("capped", [exp_capped, expm1_capped])
def test_exp_stops_at_the_largest_number(capped):
    assert capped(1e4) == capped(math.inf) == sys.float_info.max
    assert math.isnan(capped(math.nan))
    assert capped(700.0) == pytest.approx(math.exp(700.0), rel=1e-12)


def test_terms_are_exact_for_tiny_ratios_and_finite_for_huge_ones():
    tiny = np.array([1e-9, -1e-9])
    np.testing.assert_allclose(k3_terms(tiny), 5e-19, rtol=1e-6)
    assert np.isfinite(k3_terms(np.array([1e4, -1e4, 800.0]))).all()


def test_the_mean_is_smooth_at_the_guard():
    """The same mean by two ways of summing, a hair below and at the guard; 1 ulp of 500 is 6e-14."""
    below, at = (mean_k3(np.array([edge, 0.1, -3.0])) for edge in (np.nextafter(K3_CAP, 0), K3_CAP))
    assert at == pytest.approx(below, rel=1e-10)
    assert mean_k3(np.array([1e4, 0.0])) == sys.float_info.max
