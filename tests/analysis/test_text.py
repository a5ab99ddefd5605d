"""Numbers become text that shows something."""

import numpy as np
import pytest

from alpkit.analysis.text import number, with_bounds


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.12345, 2, "0.12"),
        (1e-5, 2, "1.0e-05"),
        (0.0, 2, "0.00"),
        (np.nan, 2, "–"),
        (2e6, 1, "2.0e+06"),
    ],
)
def test_numbers_as_text(value, digits, text):
    assert number(value, digits) == text


def test_a_bound_near_zero_is_a_zero_beside_larger_ones():
    assert with_bounds(0.17, -0.0029, 0.32, 2) == "0.17 [0.00, 0.32]"
    assert with_bounds(1e-4, 1e-5, 2e-4, 2) == "1.0e-04 [1.0e-05, 2.0e-04]"
