"""Lines over steps: windows of long runs, intervals over seeds."""

import numpy as np
import pytest

from alpkit import analysis
from alpkit.analysis.figures import over_steps
from tests.support.synthetic_grid import write_grid


def test_long_runs_are_averaged_over_windows(tmp_path):
    write_grid(tmp_path, arms=("gspo",), seeds=(0,), steps=600, records=False)
    frame = analysis.load("synthetic", root=tmp_path, strict=False)
    own = over_steps.over_steps(frame, ["kl/k3"])
    assert own["step"].tolist() == list(range(3, 601, 3))
    steps = frame.steps[frame.steps["step"].between(4, 6)]
    assert own["mean"].iloc[1] == pytest.approx(steps["kl/k3"].mean())


def test_three_seeds_have_the_t_interval_and_two_their_range(frame):
    row = over_steps.over_steps(frame, ["reward/mean"]).iloc[6]
    values = frame.steps.loc[
        (frame.steps["arm"] == row["arm"]) & (frame.steps["step"] == row["step"]), "reward/mean"
    ]
    half = 4.302652729911275 * values.std() / np.sqrt(3)
    np.testing.assert_allclose(
        [row["mean"], row["low"], row["high"]],
        [values.mean(), values.mean() - half, values.mean() + half],
    )
    two = type(frame)(frame.cells, frame.steps[frame.steps["seed"] < 2], frame.records, frame.grid)
    rows = over_steps.over_steps(two, ["reward/mean"])
    assert set(rows["interval"]) == {"range"}
