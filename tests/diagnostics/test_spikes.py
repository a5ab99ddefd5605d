"""Spikes: found at their step, never before, never because of what comes later."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpkit.diagnostics import SpikeDetector, spike_summary
from tests.support.series import stationary


def run(values, **settings):
    detector = SpikeDetector(**settings)
    return [detector.update(value) for value in values]


def test_a_planted_spike_is_found_at_its_step_and_not_before():
    values = np.exp(np.random.default_rng(0).normal(-7, 0.1, 60))
    values[40] *= 5
    verdicts = run(values)
    assert [step for step, verdict in enumerate(verdicts) if verdict.is_spike] == [40]
    assert {verdict.status for verdict in verdicts[:16]} == {"short"}
    assert {verdict.status for verdict in verdicts[16:]} == {"ok"}


def test_z_is_the_robust_score_of_the_trailing_window():
    values = np.exp(np.random.default_rng(1).normal(0, 1, 80))
    past, last = np.log(values[29:79]), math.log(values[79])
    mad = np.median(np.abs(past - np.median(past)))
    assert run(values)[79].z == pytest.approx((last - np.median(past)) / (1.4826 * mad))


def test_a_constant_metric_does_not_spike_on_rounding():
    verdicts = run([1e-3] * 20 + [1.2e-3, 1.3e-3, 1.4e-3])
    # the floor: 4 * 1.4826 * 0.05 nats is a factor of 1.345
    assert [verdict.is_spike for verdict in verdicts[20:]] == [False, False, True]
    assert verdicts[20].z == pytest.approx(math.log(1.2) / (1.4826 * 0.05))


def test_a_fall_is_no_spike():
    assert run([1.0] * 20 + [1e-6])[-1].z < -100
    assert not run([1.0] * 20 + [1e-6])[-1].is_spike


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(1e-9, 1e3), max_size=60), st.integers(0, 60))
def test_no_look_ahead_and_resumable(values, cut):
    whole = run(values)
    np.testing.assert_array_equal(
        [verdict.z for verdict in run(values[:cut])], [verdict.z for verdict in whole[:cut]]
    )
    first = SpikeDetector()
    for value in values[:cut]:
        first.update(value)
    second = SpikeDetector(history=first.history)
    for value, expected in zip(values[cut:], whole[cut:]):
        got = second.update(value)
        assert (got.is_spike, got.status) == (expected.is_spike, expected.status)
        assert got.z == pytest.approx(expected.z, nan_ok=True, rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(1e-6, 1e3), min_size=20, max_size=40), st.floats(1e-3, 1e3))
def test_the_unit_of_the_metric_does_not_matter(values, factor):
    before, after = run(values), run([value * factor for value in values])
    for one, other in zip(before, after):
        assert other.z == pytest.approx(one.z, nan_ok=True, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_values_without_a_log_are_reported_and_forgotten(bad):
    detector = SpikeDetector()
    for _ in range(20):
        detector.update(1.0)
    before = detector.history
    verdict = detector.update(bad)
    assert (verdict.status, verdict.is_spike) == ("nonfinite", False)
    assert math.isnan(verdict.z)
    assert detector.history == before


def test_the_window_forgets():
    detector = SpikeDetector(window=20)
    for value in [1.0] * 100 + [100.0] * 20:
        detector.update(value)
    assert len(detector.history) == 20
    assert detector.update(100.0).z == pytest.approx(0.0)


@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_stationary_metrics_rarely_spike(phi):
    """Under 1 in 1,000 judged steps of 50 series of 500 steps; more, t3 and AR(0.9): docs/tails.md."""
    alarms = judged = 0
    for seed in range(50):
        z = [verdict.z for verdict in run(np.exp(stationary(seed, 500, phi=phi)))[16:]]
        alarms += int(np.sum(np.array(z) > 4))
        judged += len(z)
    print(f"AR({phi}): {1000 * alarms / judged:.2f} false alarms per 1,000 steps")
    assert judged == 50 * 484
    assert alarms / judged < 1e-3


def test_summary_by_counting():
    values = np.array([1.0] * 20 + [2.0] + [1.0] * 20 + [math.exp(0.25)] + [1.0] * 9)
    got = spike_summary(values)
    # MAD at its floor: z = log v / (1.4826 * 0.05), 9.35 for 2 and 3.37 for e^0.25
    assert (got.steps, got.judged, got.status) == (51, 35, "ok")
    assert got.maximum == 2.0
    assert (got.rate_3, got.rate_4, got.rate_6) == (2 / 35, 1 / 35, 1 / 35)
    assert got.p99_over_p50 == pytest.approx(np.quantile(values, 0.99))


def test_a_summary_says_what_it_rests_on():
    short = spike_summary(np.array([1.0, 3.0]))
    assert (short.status, short.judged, short.maximum) == ("short", 0, 3.0)
    assert math.isnan(short.rate_4)
    assert math.isnan(spike_summary(np.array([])).maximum)
    gap = spike_summary(np.r_[np.ones(20), math.nan, 1.0])
    assert (gap.status, gap.judged) == ("nonfinite", 5)
    bad = spike_summary(np.full(30, -1.0))
    assert (bad.status, bad.steps) == ("nonfinite", 30)
    assert math.isnan(bad.p99_over_p50)
