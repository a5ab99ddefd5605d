"""The dynamics draw their CSV, with a cross where a cell spiked."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alpkit.analysis.figures import dynamics
from tests.support.synthetic_grid import SPIKE


def test_the_dynamics_draw_their_csv(report, looks):
    data = pd.read_csv(report.folder / "dynamics.csv")
    part = data[data["metric"] == "kl/k3"]
    axes = dynamics.draw_panel(part, Figure().subplots(), looks)
    drawn = part.groupby(["arm", "series"], sort=False)["mean"]
    for line, (_, values) in zip(axes.lines, drawn, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    # One cell spiked, and its cross stands where it did.
    assert [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "x"] == [
        [[SPIKE[2], part.loc[part["series"] == "spike", "mean"].item()]]
    ]
