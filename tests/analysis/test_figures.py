"""Every figure draws what its CSV holds, on axes that a reader can compare."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from synthetic_grid import ARMS, SPIKE, write_grid

import analysis
from analysis import figures, plotted_tails, style

LOOKS = {arm: style.Look("#000000", "-", None) for arm in ARMS}


def test_the_ccdf_draws_its_csv(report):
    data = pd.read_csv(report.folder / "ccdf.csv")
    part = data[(data["level"] == "token") & (data["side"] == "right")]
    axes = figures.ccdf(part, Figure().subplots(), LOOKS)
    for line, arm in zip(axes.lines, [*ARMS, "float32", "bfloat16"], strict=True):
        own = part[part["arm"] == arm]
        np.testing.assert_array_equal(line.get_xydata(), own[["z", "p"]].to_numpy())


def test_the_envelope_draws_its_csv(report):
    data = pd.read_csv(report.folder / "envelope.csv")
    part = data[(data["level"] == "product") & (data["arm"] == "seq-alp")]
    axes = figures.envelope(part, Figure().subplots(), LOOKS["seq-alp"])
    raw, noisy = part[part["ratio"] == "raw"], part[part["ratio"] == "perturbed"]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), raw[["log_mu", "p50"]].to_numpy())
    np.testing.assert_array_equal(axes.lines[2].get_ydata(), noisy["p98"].to_numpy())
    corners = axes.collections[0].get_paths()[0].vertices
    assert {*raw["p02"], *raw["p98"]} <= {*corners[:, 1]}


def test_the_dynamics_draw_their_csv(report):
    data = pd.read_csv(report.folder / "dynamics.csv")
    part = data[data["metric"] == "kl/k3"]
    axes = figures.dynamics(part, Figure().subplots(), LOOKS)
    drawn = part.groupby(["arm", "series"], sort=False)["mean"]
    for line, (_, values) in zip(axes.lines, drawn, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    # One cell spiked, and its cross stands where it did.
    assert [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "x"] == [
        [[SPIKE[2], part.loc[part["series"] == "spike", "mean"].item()]]
    ]


def test_more_arms_than_a_row_holds_wrap(tmp_path):
    write_grid(tmp_path, name="wide", seeds=(0,), steps=3)
    data = plotted_tails.envelope_frame(analysis.load("wide", root=tmp_path))
    more = pd.concat([data, data.assign(arm=data["arm"] + " b")])
    looks = {arm: style.Look("#000000", "-", None) for arm in more["arm"].unique()}
    figure = figures.envelope_sheet(more, looks)
    titles = [panel.get_title(loc="left") for panel in figure.axes if panel.get_visible()]
    assert len(titles) == 24
