"""Causes of a gap: shares that add up, causes that move together, and no gap at all."""

import numpy as np
import pytest

from alpkit.diagnostics.gap_causes import NO_GAP, share_out


def test_independent_causes_have_the_shares_of_their_variances():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 0.3, 200_000), rng.normal(0, 0.4, 200_000)
    found = share_out({"a": a, "b": b})
    assert found.status == "ok"
    # Standard error of a share over 2e5 draws is about 0.002.
    assert found.causes["a"].share == pytest.approx(0.36, abs=0.01)
    assert found.causes["b"].alone == pytest.approx(0.64, abs=0.01)
    assert found.together == pytest.approx(1.0, abs=0.01)
    assert found.total.sd == pytest.approx(0.5, abs=0.005)
    assert found.causes["a"].p99 == pytest.approx(0.3 * 2.326, abs=0.02)


def test_shares_add_up_whatever_moves_together_and_the_pair_is_named():
    rng = np.random.default_rng(1)
    a, noise = rng.normal(0, 1, 5000), rng.normal(0, 0.1, 5000)
    found = share_out({"a": a, "c": noise, "b": -0.9 * a})
    assert sum(cause.share for cause in found.causes.values()) == pytest.approx(1.0, abs=1e-9)
    assert found.together > 10
    assert found.strongest_pair == ("a", "b")
    assert found.causes["b"].share < 0


def test_no_gap_is_a_result_and_a_token_without_a_number_is_left_out():
    found = share_out({"a": np.zeros(10), "b": np.zeros(10)})
    assert (found.status, found.n, found.total.sd) == ("none", 10, 0.0)
    tiny = share_out({"a": np.linspace(-NO_GAP, NO_GAP, 100)})
    assert tiny.status == "none"
    assert tiny.strongest_pair is None
    some = share_out({"a": np.array([np.nan, 1.0, 2.0]), "b": np.array([0.0, 0.0, np.inf])})
    assert (some.n, some.total.p50) == (1, 1.0)
    assert share_out({"a": np.array([np.nan])}).status == "nonfinite"
