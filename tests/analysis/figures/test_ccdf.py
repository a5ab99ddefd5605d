"""The CCDF counts exceedances and draws its CSV."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from alpkit.analysis.figures import ccdf
from tests.support.recorded_ratios import ratios
from tests.support.synthetic_grid import ARMS


def test_the_ccdf_draws_its_csv(report, looks):
    data = pd.read_csv(report.folder / "ccdf.csv")
    part = data[(data["level"] == "token") & (data["side"] == "right")]
    axes = ccdf.draw_panel(part, Figure().subplots(), looks)
    for line, arm in zip(axes.lines, [*ARMS, "float32", "bfloat16"], strict=True):
        own = part[part["arm"] == arm]
        np.testing.assert_array_equal(line.get_xydata(), own[["z", "p"]].to_numpy())


def test_ccdf_counts_exceedances_inside_its_band(frame):
    data = ccdf.numbers(frame)
    band = data.dropna(subset=["low", "high"])
    assert (band["low"] <= band["high"]).all()
    own = data[
        (data["arm"] == "seq-bypass") & (data["level"] == "token") & (data["side"] == "left")
    ]
    inverse = np.exp(-ratios(frame, "seq-bypass")["token"]["log_ratio"].to_numpy())
    expected = [(inverse > z).mean() for z in own["z"]]
    np.testing.assert_allclose(own["p"], expected, atol=1e-12)
    inside = (own["low"] <= own["p"]) & (own["p"] <= own["high"])
    assert inside.mean() > 0.9


def test_the_floor_is_a_rounding_error_wide(frame):
    data = ccdf.numbers(frame)
    floor = data[(data["arm"] == "bfloat16") & (data["level"] == "token")]
    # The largest |log mu| lies between 4 and 16: two errors of up to half a unit in the last place each.
    assert 2**-7 < np.log(floor["z"].max()) < 2**-4
    wide = data[(data["arm"] == "grpo") & (data["level"] == "token")]["z"].max()
    assert floor["z"].max() < wide
    single = data[(data["arm"] == "float32") & (data["level"] == "token")]
    assert np.log(single["z"].max()) == pytest.approx(np.log(floor["z"].max()) / 2**16, rel=1e-3)
