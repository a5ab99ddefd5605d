"""A sketch says what the data would have said: exactly at the ends, to a bin inside, in any order."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpkit.diagnostics import RatioSketch, divergences, fit_khat, hill
from alpkit.diagnostics.sketch import REACH, SIZE, STEP, TOP, UNIT, split

rng = np.random.default_rng(5)
HEAVY = rng.standard_t(3, 50_000) * 0.05
FLOATS = st.floats(-300, 300, allow_nan=False).map(float)


def bins_apart(value, exact):
    return abs(math.asinh(value / UNIT) - math.asinh(exact / UNIT)) / STEP


@pytest.mark.parametrize("q", [0.0, 0.0005, 0.02, 0.2, 0.4, 0.5, 0.6, 0.85, 0.98, 0.9999, 1.0])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 60.0])
def test_quantiles_are_within_one_bin(q, scale):
    d = HEAVY * scale
    found, exact = RatioSketch().add(d).quantile(q), np.quantile(d, q)
    assert bins_apart(found, exact) <= 1
    if min(q, 1 - q) * d.size < TOP - 1:
        assert found == pytest.approx(exact, rel=1e-12)


@given(st.lists(FLOATS, min_size=1, max_size=60), st.floats(0, 1))
def test_short_data_are_held_exactly(values, q):
    sketch = RatioSketch().add(np.array(values))
    assert sketch.quantile(q) == pytest.approx(np.quantile(values, q), rel=1e-9, abs=1e-12)


def test_an_atom_at_zero_is_a_quantile_of_its_own():
    d = np.r_[np.zeros(30_000), rng.normal(0, 1e-3, 20_000)]
    sketch = RatioSketch().add(d)
    assert sketch.quantile(0.5) == 0.0
    assert sketch.sums["zero"] == 30_000
    assert sketch.summary()["zero_share"] == pytest.approx(0.6)


def test_it_agrees_with_the_exact_statistics():
    sketch = RatioSketch().add(HEAVY)
    exact = divergences(HEAVY, np.zeros(HEAVY.size, int))
    found = sketch.summary()
    assert found["mean"] == pytest.approx(HEAVY.mean(), rel=1e-9)
    assert found["std"] == pytest.approx(HEAVY.std(), rel=1e-9)
    assert (found["min"], found["max"]) == (HEAVY.min(), HEAVY.max())
    for name in ("chi2", "ess", "k3", "zero_share", "saturated", "p98", "p01"):
        assert found[name] == pytest.approx(exact[name], rel=1e-9), name
    for name in ("below_band", "above_band"):  # beyond the exact top to a bin, here within it
        assert found[name] == exact[name] > 0, name
    for side in ("right", "left"):
        khat = fit_khat(HEAVY, side=side, n_boot=0)
        assert found[f"khat_{side}"] == pytest.approx(khat.estimate, rel=1e-12)
        own = hill(HEAVY, khat.n_tail, side=side).estimate
        assert found[f"hill_{side}"] == pytest.approx(own, rel=1e-12)
        assert sketch.hill(4000, side).estimate == pytest.approx(
            hill(HEAVY, 4000, side=side).estimate, rel=1e-12
        )


@pytest.mark.parametrize("n", [900, 50_000, 900_000])
def test_the_top_one_percent_is_exact_or_binned(n):
    d = np.random.default_rng(n).standard_t(4, n) * 0.3
    largest = np.sort(d)[-math.ceil(n / 100) :]
    share = np.exp(largest).sum() / np.exp(d).sum()
    assert RatioSketch().add(d).top_share() == pytest.approx(share, rel=1e-9 if n < 4e5 else 2e-3)


@pytest.mark.parametrize("side", ["right", "left"])
def test_survival_is_a_step_at_the_ends_and_a_bin_inside(side):
    d = np.random.default_rng(1).normal(0, 1, 200_000)
    values = d if side == "right" else -d
    grid = np.linspace(-1, 4.5, 23)
    exact = (values[:, None] > grid).mean(axis=0)
    found = RatioSketch().add(d).survival(grid, side)
    np.testing.assert_allclose(found, exact, atol=4e-3)  # a bin of width 1 % at density 0.4
    ends = grid > 2.5
    np.testing.assert_allclose(found[ends], exact[ends], rtol=1e-12)


@given(st.lists(st.lists(FLOATS, max_size=30), min_size=3, max_size=3), st.permutations(range(3)))
def test_merging_associates_and_ignores_order(groups, order):
    a, b, c = (RatioSketch().add(np.array(group)) for group in groups)
    one, other = a.merge(b).merge(c), a.merge(b.merge(c))
    shuffled = RatioSketch().merge(*[(a, b, c)[index] for index in order])
    whole = RatioSketch().add(np.array([value for group in groups for value in group]))
    for sketch in (other, shuffled, whole):
        left, right = split(one.state), split(sketch.state)
        np.testing.assert_array_equal(left.counts, right.counts)
        np.testing.assert_array_equal(left.top, right.top)
        np.testing.assert_allclose(left.sums, right.sums, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(left.log_sums, right.log_sums, rtol=1e-9, atol=1e-9)


def test_merging_leaves_its_parts_alone_and_keeps_the_largest_of_both():
    low, high = RatioSketch().add(HEAVY[HEAVY < 0]), RatioSketch().add(HEAVY[HEAVY >= 0])
    before = low.state.copy()
    merged = low.merge(high)
    np.testing.assert_array_equal(low.state, before)
    np.testing.assert_array_equal(merged.top("right"), np.sort(HEAVY)[::-1][:TOP])
    np.testing.assert_array_equal(merged.top("left"), np.sort(-HEAVY)[::-1][:TOP])


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([], "short"),
        ([0.3], "short"),
        (np.zeros(5000), "flat"),
        (np.full(5000, 0.7), "flat"),
        (np.full(5000, 20.0), "saturated"),
        ([math.nan, math.inf, -math.inf], "short"),
    ],
)
def test_data_without_a_tail_have_a_status(values, status):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sketch = RatioSketch().add(np.array(values, float))
        found = sketch.summary()
    assert sketch.khat().status == status
    assert "khat_right" not in found
    assert all(math.isfinite(value) for value in found.values())
    assert (len(found) > 1) == (sketch.n > 0)
    assert found["nonfinite"] == np.count_nonzero(~np.isfinite(np.array(values, float)))


def test_non_finite_items_are_counted_and_count_for_nothing_else():
    dirty = np.r_[HEAVY, math.nan, math.inf, -math.inf]
    clean, sketch = RatioSketch().add(HEAVY), RatioSketch().add(dirty)
    assert sketch.sums["nonfinite"] == 3
    assert sketch.summary() == clean.summary() | {"nonfinite": 3.0}


def test_huge_log_ratios_overflow_nothing():
    d = np.r_[rng.normal(0, 1, 1000), 1e4, -1e4, 120.0]
    sketch = RatioSketch().add(d)
    found = sketch.summary()
    assert (found["max"], found["min"]) == (1e4, -1e4)
    assert all(math.isfinite(value) for value in found.values())
    assert sketch.k3() == np.finfo(float).max
    assert found["saturated"] == pytest.approx(3 / 1003)
    assert sketch.quantile(0.999) > REACH


def test_a_vector_of_another_size_is_refused():
    with pytest.raises(ValueError, match=str(SIZE)):
        RatioSketch(np.zeros(7))
