"""Tails from the records: the planted heavy arm is heavier, and the plotted numbers are the records'."""

import numpy as np
import pandas as pd
import pytest
from synthetic_grid import HEAVY, LIGHT

from analysis.plotted import ccdf_frame, dynamics_frame, envelope_frame
from analysis.tails import ratios, tail_frame


@pytest.fixture(scope="module")
def tails(frame):
    return tail_frame(frame).set_index(["arm", "level", "side"])


def test_the_planted_shape_comes_back_with_its_interval(tails):
    heavy = tails.loc[("seq-bypass", "token", "right")]
    assert heavy["khat_low"] < HEAVY < heavy["khat_high"]
    assert heavy["khat"] == pytest.approx(HEAVY, abs=0.15)
    assert heavy["hill"] == pytest.approx(HEAVY, abs=0.15)
    for arm in ("grpo", "gspo", "token-tis", "seq-mis", "seq-alp"):
        light = tails.loc[(arm, "token", "right")]
        assert light["khat_high"] < heavy["khat_low"]
        assert light["hill"] == pytest.approx(LIGHT, abs=0.05)


def test_counts_say_what_was_pooled(tails):
    # 3 seeds x 5 recorded steps x 24 prompts x 4 responses x 5 tokens.
    token = tails.loc[("grpo", "token", "left")]
    assert (token["n"], token["clusters"]) == (7200, 360)
    assert tails.loc[("grpo", "product", "left")]["n"] == 1440


def test_the_ratio_is_unperturbed_for_every_arm(frame):
    tokens = frame.records.tokens(arm="seq-alp", columns=["logp_train", "logp_rollout"])
    expected = tokens["logp_train"].astype(float) - tokens["logp_rollout"].astype(float)
    np.testing.assert_allclose(ratios(frame, "seq-alp")["token"]["log_ratio"], expected)


def test_product_level_sums_a_responses_tokens(frame):
    tokens = frame.records.tokens(
        arm="grpo", steps=[10], columns=["sample", "logp_train", "logp_rollout"]
    )
    one = tokens[(tokens["seed"] == 1) & (tokens["sample"] == 7)]
    total = (one["logp_train"].astype(float) - one["logp_rollout"].astype(float)).sum()
    product = ratios(frame, "grpo")["product"]["log_ratio"].to_numpy()
    assert np.abs(product - total).min() < 1e-6


def test_unfinished_cells_are_not_in_the_tails(frame):
    cells = frame.cells.assign(state=np.where(frame.cells["seed"] == 0, "killed", "finished"))
    partial = type(frame)(cells, frame.steps, frame.records, frame.grid)
    assert len(ratios(partial, "grpo")["token"]) == 2 * 2400


def test_envelope_bins_hold_equal_counts_and_their_own_quantiles(frame):
    data = envelope_frame(frame)
    own = data[(data["arm"] == "grpo") & (data["level"] == "token")]
    # Half of the planted log mu are one number, and tied items stay in one bin whatever their order.
    tied = int((ratios(frame, "grpo")["token"]["log_mu"] == own["log_mu"].max()).sum())
    assert tied > 3000
    assert own["n"].iloc[-1] >= tied
    assert own["n"].iloc[:-2].tolist() == [200] * (len(own) - 2)
    assert own["log_mu"].is_monotonic_increasing
    tokens = ratios(frame, "grpo")["token"].sort_values("log_mu", kind="stable")
    lowest = tokens["log_ratio"].to_numpy()[:200]
    np.testing.assert_allclose(
        own.iloc[0][["p02", "p50", "p98"]].astype(float), np.quantile(lowest, [0.02, 0.5, 0.98])
    )
    assert set(data.loc[data["ratio"] == "perturbed", "arm"]) == {"seq-alp"}


def test_ccdf_counts_exceedances_inside_its_band(frame):
    data = ccdf_frame(frame)
    assert (data["low"] <= data["high"]).all()
    own = data[
        (data["arm"] == "seq-bypass") & (data["level"] == "token") & (data["side"] == "left")
    ]
    inverse = np.exp(-ratios(frame, "seq-bypass")["token"]["log_ratio"].to_numpy())
    expected = [(inverse > z).mean() for z in own["z"]]
    np.testing.assert_allclose(own["p"], expected, atol=2 / 7200)
    inside = (own["low"] <= own["p"]) & (own["p"] <= own["high"])
    assert inside.mean() > 0.9


def test_clustered_band_is_wider_than_the_independent_one(frame):
    from analysis.plotted import _ccdf

    rng = np.random.default_rng(0)
    shared = np.repeat(rng.normal(size=100), 20)
    data = pd.DataFrame(
        {"log_ratio": shared, "log_mu": 0.0, "cluster": np.repeat(np.arange(100), 20)}
    )
    alone = data.assign(cluster=np.arange(2000))
    middle = slice(5, 25)
    wide, narrow = (
        (d["high"] - d["low"])[middle].mean() for d in (_ccdf(data, "right"), _ccdf(alone, "right"))
    )
    # 20 copies of one draw: sqrt(20) = 4.5 times the independent width.
    assert 3.5 < wide / narrow < 5.5


def test_dynamics_are_the_seeds_mean_and_range(frame):
    data = dynamics_frame(frame)
    row = data[
        (data["metric"] == "reward/mean") & (data["arm"] == "gspo") & (data["step"] == 7)
    ].iloc[0]
    values = frame.steps.loc[
        (frame.steps["arm"] == "gspo") & (frame.steps["step"] == 7), "reward/mean"
    ]
    np.testing.assert_allclose(
        [row["mean"], row["low"], row["high"], row["n"]],
        [values.mean(), values.min(), values.max(), 3],
    )
