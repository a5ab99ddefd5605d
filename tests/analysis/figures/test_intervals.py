"""Settings of the noise stand beside their control."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from alpkit.analysis.figures import intervals, layers_intervals, sites_intervals, style


@pytest.mark.parametrize(
    ("name", "data", "settings"),
    [
        ("layers", layers_intervals.numbers, ["no noise", "all", "early", "late"]),
        ("sites", sites_intervals.numbers, ["no noise", "layer_input", "mlp_output"]),
    ],
)
def test_ablations_stand_beside_their_control(ablations, name, data, settings):
    noisy = ablations[name]
    rows = data(noisy)
    one = rows[rows["endpoint"] == "final_reward"]
    assert one["setting"].tolist() == settings
    axes = intervals.draw_panel(one, Figure().subplots(), style.looks(noisy.cells))
    means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() != "None"]
    np.testing.assert_allclose(means, one["mean"])
    control = noisy.finished[noisy.finished["arm"] == "seq-bypass"]["final_reward"]
    assert one["mean"].iloc[0] == pytest.approx(control.mean())
    assert (one["interval"] == "t").all()
