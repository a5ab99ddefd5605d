"""pass@k draws its CSV."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from alpkit.analysis.figures import passk
from tests.support.synthetic_grid import ARMS


def test_pass_at_k_draws_its_csv(frame, looks):
    data = passk.numbers(frame)
    last = data[data["when"] == "last"]
    assert sorted(set(last["k"])) == [1, 4]
    grpo = last[(last["arm"] == "grpo") & (last["k"] == 4)].iloc[0]
    own = frame.steps[(frame.steps["arm"] == "grpo") & frame.steps["step"].isin([20, 30, 40])]
    assert grpo["mean"] == pytest.approx(own["eval/pass_at_k"].mean())
    axes = passk.draw_panel(last, Figure().subplots(), looks)
    heights = [line.get_ydata() for line in axes.lines]
    for arm in ARMS:
        own = last[last["arm"] == arm].sort_values("k")["mean"].to_numpy()
        assert any(np.array_equal(height, own) for height in heights)
