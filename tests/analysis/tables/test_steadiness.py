"""A planted change of level and a planted spike are named; steady and short runs are not accused."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from alpkit.analysis.tables.steadiness import steadiness_frame, steadiness_table


def with_series(frame, values):
    """The frame with `kl/k3` of each finished cell made by `values(seed, steps)`."""
    steps = frame.steps.copy()
    train = steps["step"] > 0
    for (_, seed), own in steps[train].groupby(["cell_id", "seed"]):
        steps.loc[own.index, "kl/k3"] = values(int(seed), own["step"].to_numpy())
    for other in ("kl/k3_max", "train/grad_norm"):
        steps = steps.drop(columns=other, errors="ignore")
    return dataclasses.replace(frame, steps=steps)


def noise(seed, steps):
    return np.exp(np.random.default_rng(seed).normal(-5, 0.1, steps.size))


def test_a_level_shift_is_named_with_its_step_and_factor(frame):
    def shifted(seed, steps):
        return noise(seed, steps) * np.where(steps >= 21, 3.0, 1.0)

    found = steadiness_frame(with_series(frame, shifted))
    assert set(found["metric"]) == {"kl/k3"}
    assert len(found) == len(frame.finished)
    assert (found["shifts"] == 1).all()
    for text in found["shifts_at"]:
        step, factor = re.fullmatch(r"step (\d+) \(×(.+)\)", text).groups()
        assert int(step) == 21
        assert float(factor) == pytest.approx(3.0, rel=0.2)
    table = steadiness_table(with_series(frame, shifted))
    assert table.shown["level shifts"].str.contains("0: step 21 ", regex=False).all()
    assert len(table.shown) == len(frame.arms)


def test_steady_runs_have_no_shift_and_a_spike_has_its_rate(frame):
    def spiky(seed, steps):
        return noise(seed, steps) * np.where(steps == 30, 50.0, 1.0)

    found = steadiness_frame(with_series(frame, spiky))
    assert (found["shifts"] == 0).all()
    assert (found["judged"] == 24).all()  # 40 steps, 16 of history
    np.testing.assert_allclose(found["rate_6"], 1 / 24)
    shown = steadiness_table(with_series(frame, spiky)).shown
    np.testing.assert_allclose(shown["spikes, z > 6"].astype(float), 1000 / 24, atol=0.1)
    assert (shown["level shifts"] == "–").all()


def test_runs_too_short_to_judge_say_so(frame):
    short = dataclasses.replace(frame, steps=frame.steps[frame.steps["step"] <= 10])
    shown = steadiness_table(short).shown
    assert set(shown["spikes, z > 4"]) == set(shown["level shifts"]) == {"short"}
    assert len(shown) == 3 * len(frame.arms)


def test_nothing_finished_is_an_empty_table(frame):
    cells = frame.cells.assign(state="failed")
    table = steadiness_table(dataclasses.replace(frame, cells=cells))
    assert table.data.empty
    assert "Nothing to show" in table.markdown()
    assert isinstance(table.shown, pd.DataFrame)
