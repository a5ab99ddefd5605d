"""Tokens become responses by id, whatever the order of the ids; every caller means the same by a level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpkit.diagnostics import reduce_to_level


def test_fixture_x_levels(fixture_x):
    d, sequence = fixture_x["bypass"], fixture_x["sequence"]
    product = np.exp(reduce_to_level(d, sequence, "product"))
    geometric = np.exp(reduce_to_level(d, sequence, "geometric"))
    np.testing.assert_allclose(product, [1.648721, 2.459603, 0.050287], atol=5.1e-7)
    np.testing.assert_allclose(geometric, [1.133148, 1.349859, 0.369108], atol=5.1e-7)
    np.testing.assert_array_equal(reduce_to_level(d, sequence, "token"), d)


@given(st.lists(st.tuples(st.integers(-3, 2**40), st.integers(-8, 8)), min_size=1, max_size=40))
def test_ids_may_be_interleaved_and_huge(pairs):
    """Quarters add up exactly in binary, so that the order of the sum cannot show."""
    sequence, values = np.array([i for i, _ in pairs]), np.array([v / 4 for _, v in pairs])
    ids = np.unique(sequence)
    sums = [values[sequence == i].sum() for i in ids]
    means = [values[sequence == i].mean() for i in ids]
    np.testing.assert_array_equal(reduce_to_level(values, sequence, "product"), sums)
    np.testing.assert_array_equal(reduce_to_level(values, sequence, "geometric"), means)


@pytest.mark.parametrize("level", ["token", "geometric", "product"])
def test_a_broken_token_breaks_its_own_response_only(level):
    d, sequence = np.array([0.5, np.nan, 1.0, np.inf, -np.inf]), np.array([0, 0, 1, 2, 2])
    finite = np.isfinite(reduce_to_level(d, sequence, level))
    assert finite.tolist() == ([True, False, True, False, False] if level == "token" else [0, 1, 0])
    assert reduce_to_level(d[:0], sequence[:0], level).size == 0
