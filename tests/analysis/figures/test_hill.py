"""The Hill curve meets the table's estimate, and draws its CSV."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from alpkit.analysis.figures import hill
from tests.support.synthetic_grid import ARMS


def drawn(axes, label):
    """The y values of the one line of that label."""
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return line.get_ydata()


def test_hill_draws_its_csv(report, looks):
    data = pd.read_csv(report.folder / "hill.csv")
    part = data[(data["level"] == "product") & (data["side"] == "left")]
    axes = hill.draw_panel(part, Figure().subplots(), looks)
    for arm in ARMS:
        np.testing.assert_array_equal(drawn(axes, arm), part.loc[part["arm"] == arm, "hill"])
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "v"] == [
        part["n_tail"].iloc[0]
    ]


def test_hill_curve_meets_the_tables_hill(frame, tails):
    data = hill.numbers(frame)
    own = data[(data["arm"] == "grpo") & (data["level"] == "token") & (data["side"] == "right")]
    n_tail = own["n_tail"].iloc[0]
    expected = tails.loc[("grpo", "token", "right")]
    assert n_tail == expected["n_tail"]
    assert np.interp(n_tail, own["k"], own["hill"]) == pytest.approx(expected["hill"], rel=0.02)
