"""ESS: the formula, its edges, and one answer from weights and from their sums."""

import math

import numpy as np
import pytest

from alpkit.diagnostics import ess, ess_of_sums


def test_it_is_kish_of_the_weights_with_zeros_counted():
    weight = np.array([1.0, 2.0, 0.0, 3.0])
    with np.errstate(divide="ignore"):
        found = ess(np.log(weight))
    assert found == pytest.approx(36 / (4 * 14), rel=1e-14)
    assert ess_of_sums(math.log(6), math.log(14), 4) == pytest.approx(found, rel=1e-14)


def test_equal_weights_are_one_and_a_giant_is_one_item():
    assert ess(np.full(7, 800.0)) == pytest.approx(1.0, rel=1e-12)
    assert ess(np.array([2e4, 0.0, 0.0, 0.0])) == pytest.approx(0.25, rel=1e-12)


def test_no_weight_and_no_items():
    assert ess(np.full(3, -np.inf)) == 0.0
    assert math.isnan(ess(np.array([])))
    assert math.isnan(ess_of_sums(-math.inf, -math.inf, 0))
