"""Attribution: counted shares, a planted sequence, and sums that have no shares."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpkit.diagnostics import SpikeDetector, attribute, divergences


def test_shares_by_counting():
    got = attribute(np.array([1.0, 5.0, 2.0, 2.0]), np.array([7, 7, 3, 3]), top=(1, 2, 10))
    assert got.share_tokens == pytest.approx({1: 0.5, 2: 0.7, 10: 1.0})
    assert got.share_sequences == pytest.approx({1: 0.6, 2: 1.0, 10: 1.0})
    assert got.tokens.tolist() == [1, 2, 3, 0]
    assert [tuple(s) for s in got.sequences] == [(7, 6.0, 0.6, 2), (3, 4.0, 0.4, 2)]
    assert got.status == "ok"


def test_one_shifted_sequence_is_the_cause():
    rng = np.random.default_rng(0)
    sequence = np.arange(3_000) // 30
    d = rng.normal(0, 0.05, 3_000) + 3.0 * (sequence == 17)
    got = attribute(np.expm1(d) - d, sequence)
    assert got.sequences[0].sequence == 17
    assert got.sequences[0].tokens == 30
    assert got.share_sequences[1] > 0.99
    assert set(sequence[got.tokens[:30]]) == {17}
    assert len(got.tokens) == len(got.sequences) == 100


def test_a_planted_spike_is_found_at_its_step_with_its_cause():
    """One of 64 sequences shifted by 3 nats at step 17 of 40."""
    rng = np.random.default_rng(5)
    sequence, detector, found = np.repeat(np.arange(64), 20), SpikeDetector(), []
    for step in range(40):
        d = rng.normal(0, 0.1, sequence.size)
        if step == 17:
            d[sequence == 23] += 3.0
        if detector.update(divergences(d, sequence)["k3"]).is_spike:
            found.append((step, attribute(np.expm1(d) - d, sequence).sequences[0]))
    assert [step for step, _ in found] == [17]
    assert found[0][1].sequence == 23
    assert found[0][1].share > 0.9


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([1e-300, 1.0, 1e306]))
def test_shares_grow_stay_within_one_and_ignore_order_and_unit(seed, unit):
    rng = np.random.default_rng(seed)
    values, sequence, order = rng.exponential(1, 60), rng.integers(0, 9, 60), rng.permutation(60)
    base = attribute(values, sequence, top=(1, 5, 20))
    moved = attribute(values[order] * unit, sequence[order], top=(1, 5, 20))
    for one, other in ((base.share_tokens, moved.share_tokens), (base[1], moved[1])):
        assert other == pytest.approx(one, rel=1e-9)
        assert 0 < one[1] <= one[5] <= one[20] <= 1 + 1e-12
    assert [s.sequence for s in base.sequences] == [s.sequence for s in moved.sequences]
    np.testing.assert_array_equal(order[moved.tokens], base.tokens)


def test_mixed_signs_rank_by_size():
    got = attribute(np.array([1.0, -4.0, 3.0]), np.array([0, 0, 1]), top=(1,))
    assert got.tokens.tolist() == [1]
    assert got.share_tokens[1] == 0.5
    assert [tuple(s) for s in got.sequences] == [(0, -3.0, 0.5, 2)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_terms_are_named_first(bad):
    got = attribute(np.array([1.0, 9.0, bad]), np.array([0, 0, 1]))
    assert got.status == "nonfinite"
    assert got.tokens.tolist() == [2, 1, 0]
    assert got.sequences[0].sequence == 1
    assert not math.isfinite(got.sequences[0].contribution)
    assert all(math.isnan(v) for v in (*got.share_tokens.values(), *got.share_sequences.values()))


def test_nothing_to_share():
    flat = attribute(np.zeros(5), np.arange(5), top=(1,))
    assert flat.status == "flat"
    assert math.isnan(flat.share_tokens[1])
    assert flat.sequences[0].contribution == 0.0
    empty = attribute(np.array([]), np.array([], int))
    assert (empty.status, empty.tokens.size, empty.sequences) == ("short", 0, [])
    assert math.isnan(empty.share_sequences[100])
    # every sequence cancels: tokens have shares, sequences have none
    got = attribute(np.array([1.0, -1.0]), np.array([0, 0]), top=(1,))
    assert got.share_tokens[1] == 0.5
    assert math.isnan(got.share_sequences[1])
