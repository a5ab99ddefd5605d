"""Tails from the records: the planted heavy arm is heavier, and the plotted numbers are the records'."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from alpkit.analysis.plotted_tails import (
    ccdf_frame,
    envelope_frame,
    factors_frame,
    hill_frame,
    khat_frame,
)

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading import pooled, reducers
from alpkit.analysis.reading.items import step_items
from alpkit.analysis.reading.pooled import pool_arm
from alpkit.analysis.reading.records import Batch, RecordedCell, Records
from alpkit.analysis.tables.tails import tail_frame
from alpkit.diagnostics import ccdf, fit_khat, hill
from alpkit.runs.records import RecordWriter
from tests.support.synthetic_grid import HEAVY, LIGHT


def ratios(frame, arm, *, numerator="logp_train"):
    """The slow way: every finished token of an arm in one pandas frame, and its responses."""
    cells = set(frame.finished["cell_id"])
    tokens = frame.records.tokens(arm=arm, cells=cells)
    tokens["log_mu"] = tokens["logp_rollout"].astype(float)
    tokens["log_ratio"] = tokens[numerator].astype(float) - tokens["log_mu"]
    tokens["cluster"] = tokens.groupby(["seed", "step", "prompt"], sort=False).ngroup()
    responses = tokens.groupby(["seed", "step", "sample"], sort=False).agg(
        log_ratio=("log_ratio", "sum"), log_mu=("log_mu", "mean"), cluster=("cluster", "first")
    )
    keep = ["log_ratio", "log_mu", "cluster"]
    return {"token": tokens[keep], "product": responses.reset_index()[keep]}


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


@pytest.mark.parametrize("level", ["token", "product"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_one_pass_says_what_all_rows_in_memory_say(frame, tails, level, side):
    for arm in ("grpo", "seq-alp"):
        d = ratios(frame, arm)[level]["log_ratio"].to_numpy() * (1 if side == "right" else -1)
        row, fit = tails.loc[(arm, level, side)], fit_khat(d, n_boot=0)
        np.testing.assert_allclose(
            row[["p98", "p99", "p999", "max"]].astype(float),
            np.quantile(d, [0.98, 0.99, 0.999, 1.0]),
        )
        assert row["khat"] == pytest.approx(fit.estimate, rel=1e-9)
        assert row["hill"] == pytest.approx(hill(d, fit.n_tail).estimate, rel=1e-9)
        x = np.exp(d)
        assert row["ess"] == pytest.approx(x.sum() ** 2 / (len(x) * (x**2).sum()))
        largest = np.sort(x)[-int(np.ceil(len(x) / 100)) :]
        assert row["top1_share"] == pytest.approx(largest.sum() / x.sum())


def test_geometric_is_the_product_per_token(tails):
    # Every planted response has five tokens.
    quantiles = tails.loc[("grpo", "geometric", "right"), "p98"]
    assert quantiles == pytest.approx(tails.loc[("grpo", "product", "right"), "p98"] / 5)


def test_unfinished_cells_are_not_in_the_tails(frame):
    cells = frame.cells.assign(state=np.where(frame.cells["seed"] == 0, "killed", "finished"))
    partial = GridFrame(cells, frame.steps, frame.records, frame.grid)
    assert partial.pooled["grpo"].levels["token"].n == 2 * 2400


def test_a_small_memory_changes_no_number_but_the_envelopes(frame, tails, monkeypatch):
    monkeypatch.setattr(pooled, "SAMPLE", 1000)
    small = GridFrame(frame.cells, frame.steps, frame.records, frame.grid)
    pool = small.pooled["grpo"].levels["token"]
    assert pool.sample.shape == (1000, 3)
    whole = frame.pooled["grpo"].levels["token"].sample
    assert set(pool.sample[:, 1]) <= set(whole[:, 1])
    np.testing.assert_allclose(pool.sample[:, 0].mean(), whole[:, 0].mean(), atol=0.1)
    again = tail_frame(small).set_index(["arm", "level", "side"])
    pd.testing.assert_frame_equal(again, tails)


def test_the_largest_survive_any_order():
    rng = np.random.default_rng(0)
    values, cluster = rng.permutation(5000).astype(float), np.arange(5000)
    kept = reducers.Largest(50)
    for part in np.split(np.arange(5000), 20):
        kept.add(values[part], cluster[part])
    top = kept.top()
    np.testing.assert_array_equal(top.values, np.arange(4999.0, 4949.0, -1))
    np.testing.assert_array_equal(values[top.cluster], top.values)


def test_bins_are_the_edges_own():
    values = np.random.default_rng(0).laplace(0, 1, 10_000).astype(np.float32).astype(float)
    values[:3] = [0.5, -0.5, 0.0]  # on an edge, below all, no ratio at all
    expected = np.searchsorted(reducers.EDGES, values, side="left")
    np.testing.assert_array_equal(reducers.bin_of(values), expected)


def test_interleaved_responses_and_lost_tokens():
    mu = np.array([-1.0, -1.0, -2.0, np.nan])
    columns = {
        "sample": np.array([7, 3, 7, 3]),
        "prompt": np.array([1, 0, 1, 0]),
        "logp_rollout": mu,
        "logp_old": mu,
        "logp_train": np.array([-0.9, -1.2, -1.7, -1.0]),
        "logp_perturbed": np.full(4, np.nan),
    }
    found = step_items(Batch(4, np.zeros(4, int), columns))
    np.testing.assert_allclose(found.levels["product"].log_ratio, [-0.2, 0.4])
    np.testing.assert_allclose(found.levels["geometric"].log_ratio, [-0.2, 0.2])
    np.testing.assert_allclose(found.levels["product"].log_mu, [-1.0, -1.5])
    assert found.levels["product"].cluster.tolist() == [0, 1]
    assert found.response.tolist() == [0, 1, 1]


def test_envelope_bins_hold_equal_counts_and_their_own_quantiles(frame):
    data = envelope_frame(frame)
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
    data = envelope_frame(frame)
    own = data[(data["arm"] == "seq-alp") & (data["level"] == "product")]
    first = own[own["ratio"] == "perturbed"].iloc[0]
    noisy = ratios(frame, "seq-alp", numerator="logp_perturbed")["product"].sort_values("log_mu")
    np.testing.assert_allclose(
        first["p98"], np.quantile(noisy["log_ratio"].iloc[: first["n"]], 0.98)
    )


def test_ccdf_counts_exceedances_inside_its_band(frame):
    data = ccdf_frame(frame)
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
    data = ccdf_frame(frame)
    floor = data[(data["arm"] == "bfloat16") & (data["level"] == "token")]
    # The largest |log mu| lies between 4 and 16: two errors of up to half a unit in the last place each.
    assert 2**-7 < np.log(floor["z"].max()) < 2**-4
    wide = data[(data["arm"] == "grpo") & (data["level"] == "token")]["z"].max()
    assert floor["z"].max() < wide
    single = data[(data["arm"] == "float32") & (data["level"] == "token")]
    assert np.log(single["z"].max()) == pytest.approx(np.log(floor["z"].max()) / 2**16, rel=1e-3)


def test_clustered_band_is_wider_than_the_independent_one():
    rng = np.random.default_rng(0)
    shared = np.repeat(rng.normal(size=100), 20)

    def width(cluster, clusters):
        curve = reducers.Survival()
        curve.add(shared, cluster, clusters, 0)
        found = curve.curve("right")
        middle = (found.log_size > 0.2) & (found.log_size < 1.5)
        return (found.high - found.low)[middle].mean()

    ratio = width(np.repeat(np.arange(100), 20), 100) / width(np.arange(2000), 2000)
    # 20 copies of one draw: sqrt(20) = 4.5 times the independent width.
    assert 3.5 < ratio < 5.5


def test_the_streamed_band_covers_as_the_diagnostics_band_does(frame):
    tokens = ratios(frame, "grpo")["token"]
    curve = frame.pooled["grpo"].levels["token"].curve["right"]
    place = [int(np.searchsorted(curve.log_size, z)) for z in (0.05, 0.2, 0.6)]
    found = ccdf(
        tokens["log_ratio"].to_numpy(),
        cluster=tokens["cluster"].to_numpy(),
        log_size=curve.log_size[place],
        n_boot=400,
    )
    np.testing.assert_allclose(curve.survival[place], found.survival, atol=1e-12)
    np.testing.assert_allclose((curve.high - curve.low)[place], found.high - found.low, rtol=0.25)


def test_hill_curve_meets_the_tables_hill(frame, tails):
    data = hill_frame(frame)
    own = data[(data["arm"] == "grpo") & (data["level"] == "token") & (data["side"] == "right")]
    n_tail = own["n_tail"].iloc[0]
    expected = tails.loc[("grpo", "token", "right")]
    assert n_tail == expected["n_tail"]
    assert np.interp(n_tail, own["k"], own["hill"]) == pytest.approx(expected["hill"], rel=0.02)


def test_khat_has_the_steps_line_and_the_recorded_steps_intervals(frame):
    data = khat_frame(frame)
    own = data[
        (data["arm"] == "seq-bypass") & (data["level"] == "token") & (data["side"] == "right")
    ]
    records = own[own["source"] == "records"]
    assert records["step"].tolist() == [1, 10, 20, 30, 40]
    assert (records["low"] < records["khat"]).all()
    assert (records["khat"] < records["high"]).all()
    line = own[(own["source"] == "steps") & (own["step"] == 7)].iloc[0]
    steps = frame.steps[(frame.steps["arm"] == "seq-bypass") & (frame.steps["step"] == 7)]
    assert line["khat"] == pytest.approx(steps["ratio/raw/token/khat_right"].mean())


def test_factors_of_recorded_steps_add_up(frame):
    data = factors_frame(frame)
    shares = data[data["quantity"] == "tail_share"]
    total = shares.groupby(["arm", "step"])["value"].sum()
    np.testing.assert_allclose(total, 1.0)
    # Planted: the old policy stands half way between mu and pi.
    grpo = shares[(shares["arm"] == "grpo") & (shares["factor"] == "mismatch")]
    np.testing.assert_allclose(grpo["value"], 0.5, atol=1e-3)
    assert set(shares.loc[shares["factor"] == "perturbation", "arm"]) == {"seq-alp"}


def _records(root, steps, tokens):
    """One cell whose records hold `steps` steps of `tokens` tokens."""
    writer = RecordWriter(root / "records")
    rng = np.random.default_rng(0)
    sample = np.repeat(np.arange(tokens // 20), 20)
    mu = -rng.exponential(0.5, tokens).astype(np.float32)
    number = np.zeros(tokens, np.int32)
    columns = {name: number for name in ("update", "position", "turn", "token", "policy_version")}
    columns |= {"sample": sample, "prompt": sample // 8, "keep": np.ones(tokens, bool)}
    columns |= {"logp_rollout": mu, "logp_old": mu}
    nothing = {name: [] for name in ("sample", "prompt", "prompt_ids", "response_ids", "finish")}
    for step in range(1, steps + 1):
        train = mu + rng.laplace(0, 0.3, tokens).astype(np.float32)
        writer.write(step, {**columns, "logp_train": train}, nothing)
    return Records([RecordedCell("c", "a", 0, root)])


def test_memory_does_not_grow_with_the_number_of_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(pooled, "SAMPLE", 2000)
    monkeypatch.setattr(pooled, "STEPS", 2)
    peaks = {}
    for steps in (6, 36):
        records = _records(tmp_path / str(steps), steps, 20_000)
        tracemalloc.start()
        pool = pool_arm(records, "a", {"c"})
        peaks[steps] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert pool.levels["token"].n == steps * 20_000
    # Only the kept ends grow, with 2 % of the rows; all rows in memory would be six times as much.
    assert peaks[36] < 1.6 * peaks[6]
