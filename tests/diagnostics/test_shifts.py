"""Level shifts: found where they were planted, not where there are none, and never made of spikes."""

import math

import numpy as np
import pytest

from alpkit.diagnostics import level_shifts
from tests.support.series import stationary


@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_a_planted_shift_is_found_where_it_is(phi):
    found = 0
    for seed in range(20):
        log_values = 0.3 * stationary(seed, 300, phi=phi) - 7
        log_values[180:] += 0.9
        shifts = level_shifts(np.exp(log_values))
        if len(shifts) == 1 and abs(shifts[0].at - 180) <= 10:
            found += 1
            assert shifts[0].change == pytest.approx(0.9, abs=0.4)
            assert shifts[0].before == pytest.approx(math.exp(-7), rel=0.4)
            assert shifts[0].after / shifts[0].before == pytest.approx(math.exp(shifts[0].change))
            assert shifts[0].size == pytest.approx(3.0, abs=1.6)
    assert found >= 19


def test_two_shifts_come_in_order():
    log_values = 0.1 * stationary(1, 300)
    log_values[100:200] += 2
    shifts = level_shifts(np.exp(log_values))
    assert [shift.at for shift in shifts] == [100, 200]
    assert shifts[0].change > 1.8 > -1.8 > shifts[1].change
    assert shifts.status == "ok"


@pytest.mark.parametrize(
    ("settings", "limit"), [({}, 2), ({"phi": 0.5}, 3), ({"heavy": True}, 3), ({"phi": 0.9}, 14)]
)
def test_stationary_series_rarely_trigger(settings, limit):
    """Of 100 series of 500 steps; docs/tails.md has the rates on 1,000."""
    alarms = sum(bool(level_shifts(np.exp(stationary(s, 500, **settings)))) for s in range(100))
    assert alarms <= limit


def test_spikes_are_no_shift():
    log_values = 0.2 * stationary(0, 400)
    log_values[200] += 8
    log_values[300:304] += 3
    assert level_shifts(np.exp(log_values)) == []


def test_the_unit_does_not_matter_and_gaps_keep_their_index():
    log_values = 0.2 * stationary(2, 200)
    log_values[120:] += 1.5
    values = np.exp(log_values)
    whole = level_shifts(values)
    scaled = level_shifts(values * 1e-6)
    assert [s.at for s in scaled] == [s.at for s in whole] == [120]
    assert scaled[0].change == pytest.approx(whole[0].change)
    values[[10, 50]] = [math.nan, 0.0]
    assert [s.at for s in level_shifts(values)] == [120]


def test_too_little_to_see_is_said():
    assert level_shifts(np.ones(200)).status == "ok"
    assert level_shifts(np.ones(200)) == []
    assert level_shifts(np.ones(31)).status == "short"
    assert level_shifts(np.array([])).status == "short"
    assert level_shifts(np.full(100, math.nan)).status == "nonfinite"
    rounding = np.where(np.arange(100) < 50, 1e-3, 1.01e-3)
    assert level_shifts(rounding) == []
