"""The dynamics draw their CSV, with a cross where a cell spiked."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from alpkit.analysis.figures import dynamics
from tests.support.synthetic_grid import SPIKE


def test_the_dynamics_draw_their_csv(report, looks):
    data = pd.read_csv(report.folder / "dynamics.csv")
    part = data[data["metric"] == "kl/k3"]
    axes = dynamics.draw_panel(part, Figure().subplots(), looks)
    # The raw line, the smoothed one over it, and a spike's cross.
    drawn = [
        values
        for (_, series), own in part.groupby(["arm", "series"], sort=False)
        for values in ([own["mean"]] if series == "spike" else [own["mean"], own["smooth"]])
    ]
    for line, values in zip(axes.lines, drawn, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    grpo = part[part["arm"] == "grpo"].set_index("step")
    assert grpo.loc[20, "smooth"] == pytest.approx(grpo.loc[18:22, "mean"].mean())
    # One cell spiked, and its cross stands where it did.
    assert [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "x"] == [
        [[SPIKE[2], part.loc[part["series"] == "spike", "mean"].item()]]
    ]
