"""IQM, stratified bootstrap and P(improvement) against rliable's own values (golden/rliable.json)."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from alpkit.analysis.seeds.rliable import improvement, iqm, iqm_interval

GOLDEN = json.loads((Path(__file__).parent / "golden/rliable.json").read_text())
CASES = GOLDEN["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{np.shape(c['x'])}")
def test_values_equal_rliables(case):
    assert iqm(case["x"]) == pytest.approx(case["iqm"], abs=1e-12)
    assert improvement(case["x"], case["y"]).value == pytest.approx(case["improvement"], abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{np.shape(c['x'])}")
def test_intervals_equal_rliables_up_to_resampling(case):
    # Two bootstraps of 20,000: their quantiles differ by a step of a discrete distribution at most.
    ours = iqm_interval(case["x"], resamples=20_000)
    np.testing.assert_allclose(ours[1:], case["iqm_interval"], atol=0.012)
    ours = improvement(case["x"], case["y"], resamples=20_000)
    np.testing.assert_allclose(ours[1:], case["improvement_interval"], atol=0.03)


def test_a_bootstrap_keeps_the_tasks_apart():
    # One task at 0, one at 1: drawn across tasks the IQM would scatter; within them it cannot.
    scores = np.column_stack([np.zeros(6), np.ones(6)])
    assert iqm_interval(scores)[:] == (0.5, 0.5, 0.5)


def test_improvement_is_the_mann_whitney_share_with_ties_half():
    ours, theirs = [0.1, 0.4, 0.4, 0.9], [0.4, 0.2, 0.9]
    u = stats.mannwhitneyu(ours, theirs, alternative="greater").statistic
    assert improvement(ours, theirs).value == u / 12
    assert improvement(theirs, ours).value == pytest.approx(1 - u / 12)


@pytest.mark.parametrize("scores", [[], [0.1, np.nan], [[[0.1]]]])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(ValueError, match="scores must be finite"):
        iqm(scores)
