"""The Q-Q plot draws its CSV; a planted power law is straight."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from alpkit.analysis.figures import qq


def test_qq_draws_its_csv(report, looks):
    data = pd.read_csv(report.folder / "qq.csv")
    part = data[(data["arm"] == "seq-bypass") & (data["side"] == "right")]
    axes = qq.draw_panel(part, Figure().subplots(), looks["seq-bypass"])
    np.testing.assert_array_equal(
        axes.lines[0].get_xydata(), part[["expected", "observed"]].to_numpy()
    )
    # The planted tail is a power law: straight, with its shape as the slope.
    assert part["linearity"].iloc[0] > 0.99
    slope = axes.lines[1].get_ydata()[1] / axes.lines[1].get_xdata()[1]
    assert slope == pytest.approx(0.9, abs=0.2)
