"""The envelope's bins hold their own quantiles, and it draws its CSV."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alpkit import analysis
from alpkit.analysis.figures import envelope, style
from tests.support.recorded_ratios import ratios
from tests.support.synthetic_grid import write_grid


def test_the_envelope_draws_its_csv(report, looks):
    data = pd.read_csv(report.folder / "envelope.csv")
    part = data[(data["level"] == "product") & (data["arm"] == "seq-alp")]
    axes = envelope.draw_panel(part, Figure().subplots(), looks["seq-alp"])
    raw, noisy = part[part["ratio"] == "raw"], part[part["ratio"] == "perturbed"]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), raw[["log_mu", "p50"]].to_numpy())
    np.testing.assert_array_equal(axes.lines[2].get_ydata(), noisy["p98"].to_numpy())
    corners = axes.collections[0].get_paths()[0].vertices
    assert {*raw["p02"], *raw["p98"]} <= {*corners[:, 1]}


def test_more_arms_than_a_row_holds_wrap(tmp_path):
    write_grid(tmp_path, name="wide", seeds=(0,), steps=3)
    data = envelope.numbers(analysis.load("wide", root=tmp_path))
    more = pd.concat([data, data.assign(arm=data["arm"] + " b")])
    looks = {arm: style.Look("#000000", "-", None) for arm in more["arm"].unique()}
    figure = envelope.sheet(more, looks)
    titles = [panel.get_title(loc="left") for panel in figure.axes if panel.get_visible()]
    assert len(titles) == 24


def test_envelope_bins_hold_equal_counts_and_their_own_quantiles(frame):
    data = envelope.numbers(frame)
    own = data[(data["arm"] == "grpo") & (data["level"] == "token") & (data["ratio"] == "raw")]
    # Half of the planted log mu are one number, and tied items stay in one bin whatever their order.
    tokens = ratios(frame, "grpo")["token"].sort_values("log_mu", kind="stable")
    tied = int((tokens["log_mu"] == own["log_mu"].max()).sum())
    assert tied > 3000
    assert own["n"].iloc[-1] >= tied
    assert own["n"].iloc[:-2].tolist() == [200] * (len(own) - 2)
    assert own["log_mu"].is_monotonic_increasing
    lowest = tokens["log_ratio"].to_numpy()[:200]
    np.testing.assert_allclose(
        own.iloc[0][["p02", "p50", "p98"]].astype(float), np.quantile(lowest, [0.02, 0.5, 0.98])
    )
    assert set(data.loc[data["ratio"] == "perturbed", "arm"]) == {"seq-alp"}


def test_the_perturbed_envelope_has_the_noise_on(frame):
    data = envelope.numbers(frame)
    own = data[(data["arm"] == "seq-alp") & (data["level"] == "product")]
    first = own[own["ratio"] == "perturbed"].iloc[0]
    noisy = ratios(frame, "seq-alp", numerator="logp_perturbed")["product"].sort_values("log_mu")
    np.testing.assert_allclose(
        first["p98"], np.quantile(noisy["log_ratio"].iloc[: first["n"]], 0.98)
    )
