"""The sketch made on the device is the one made on the host: the same vector, whatever the mask."""

import numpy as np
import pytest
import torch

from alpkit.diagnostics import RatioSketch
from alpkit.diagnostics.sketch import split
from alpkit.objective import sketch_state


def heavy(n=40_000, seed=0):
    return np.random.default_rng(seed).standard_t(3, n) * 0.05


def assert_same(state, sketch):
    own, host = split(np.asarray(state)), split(sketch.state)
    # A value on a bin's edge may fall on either side: log and asinh round differently.
    assert np.abs(own.counts - host.counts).sum() <= 2
    np.testing.assert_array_equal(own.top, host.top)
    np.testing.assert_allclose(own.sums, host.sums, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(own.log_sums, host.log_sums, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "values",
    [
        heavy(),
        heavy(50),
        np.zeros(100),
        np.array([]),
        np.array([np.nan, np.inf, -np.inf, 0.5]),
        np.r_[heavy(500), 1e4, -9e3, 20.0, -20.0],
    ],
    ids=["heavy", "few", "constant", "none", "nonfinite", "huge"],
)
def test_it_is_the_hosts_vector(values):
    assert_same(sketch_state(torch.tensor(values)), RatioSketch().add(values))


def test_the_mask_removes_items_before_any_arithmetic():
    values = torch.tensor(heavy(60)).reshape(6, 10)
    mask = torch.arange(10) < torch.tensor([[1], [4], [10], [0], [7], [2]])
    dirty = values.masked_fill(~mask, torch.nan)
    assert torch.equal(sketch_state(dirty, mask), sketch_state(values[mask]))
