"""k-hat over steps draws its CSV and the line at 0.7."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from alpkit.analysis.figures import khat
from tests.support.synthetic_grid import ARMS


def test_khat_draws_its_csv_and_the_line(report, looks):
    data = pd.read_csv(report.folder / "khat.csv")
    part = data[(data["level"] == "token") & (data["side"] == "right")]
    axes = khat.draw_panel(part, Figure().subplots(), looks)
    heights = [line.get_ydata() for line in axes.lines]
    windows = part[part["source"] == "windows"]
    for arm in ARMS:
        own = windows.loc[windows["arm"] == arm, "khat"].to_numpy()
        assert any(np.array_equal(height, own) for height in heights)
    assert heights[-1] == [0.7, 0.7]


def test_khat_has_windows_of_steps_and_the_recorded_steps_intervals(frame):
    data = khat.numbers(frame)
    own = data[
        (data["arm"] == "seq-bypass") & (data["level"] == "token") & (data["side"] == "right")
    ]
    records = own[own["source"] == "records"]
    assert records["step"].tolist() == [1, 10, 20, 30, 40]
    assert (records["low"] < records["khat"]).all()
    assert (records["khat"] < records["high"]).all()
    # Ten windows of four steps: the second stands at its middle.
    point = own[own["source"] == "windows"].iloc[1]
    steps = frame.steps[(frame.steps["arm"] == "seq-bypass") & frame.steps["step"].between(5, 8)]
    assert point["step"] == 6.5
    assert point["khat"] == pytest.approx(steps["ratio/raw/token/khat_right"].mean())
    assert point["low"] < point["khat"] < point["high"]
