"""Every figure draws what its CSV holds, on axes that a reader can compare."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from alpkit import analysis
from alpkit.analysis import (
    figures,
    figures_cells,
    figures_tails,
    plotted,
    plotted_cells,
    plotted_tails,
    style,
)
from alpkit.analysis.plans import PLANS
from tests.support.synthetic_grid import ARMS, SPIKE, write_grid, write_variants

LOOKS = {arm: style.Look("#000000", "-", None) for arm in ARMS}


@pytest.fixture(scope="module")
def ablations(tmp_path_factory):
    """Grids whose perturbed arms differ in their layers alone, and in their site alone."""
    root = tmp_path_factory.mktemp("ablations")
    write_variants(root, name="layers", field="layers", values=("early", "late"), steps=12)
    write_variants(root, name="sites", field="site", values=("mlp_output",), steps=12)
    return {name: analysis.load(name, root=root) for name in ("layers", "sites")}


def drawn(axes, label):
    """The y values of the one line of that label."""
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return line.get_ydata()


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


def test_hill_draws_its_csv(report):
    data = pd.read_csv(report.folder / "hill.csv")
    part = data[(data["level"] == "product") & (data["side"] == "left")]
    axes = figures_tails.hill(part, Figure().subplots(), LOOKS)
    for arm in ARMS:
        np.testing.assert_array_equal(drawn(axes, arm), part.loc[part["arm"] == arm, "hill"])
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "v"] == [
        part["n_tail"].iloc[0]
    ]


def test_qq_draws_its_csv(report):
    data = pd.read_csv(report.folder / "qq.csv")
    part = data[(data["arm"] == "seq-bypass") & (data["side"] == "right")]
    axes = figures_tails.qq(part, Figure().subplots(), LOOKS["seq-bypass"])
    np.testing.assert_array_equal(
        axes.lines[0].get_xydata(), part[["expected", "observed"]].to_numpy()
    )
    # The planted tail is a power law: straight, with its shape as the slope.
    assert part["linearity"].iloc[0] > 0.99
    slope = axes.lines[1].get_ydata()[1] / axes.lines[1].get_xdata()[1]
    assert slope == pytest.approx(0.9, abs=0.2)


def test_khat_draws_its_csv_and_the_line(report):
    data = pd.read_csv(report.folder / "khat.csv")
    part = data[(data["level"] == "token") & (data["side"] == "right")]
    axes = figures_tails.khat(part, Figure().subplots(), LOOKS)
    heights = [line.get_ydata() for line in axes.lines]
    steps, points = (part[part["source"] == source] for source in ("steps", "records"))
    for arm in ARMS:
        for source in (steps, points):
            own = source.loc[source["arm"] == arm, "khat"].to_numpy()
            assert any(np.array_equal(height, own) for height in heights)
    assert heights[-1] == [0.7, 0.7]


@pytest.mark.parametrize(
    ("name", "sheet", "key", "value"),
    [
        ("factors", figures_tails.factors_sheet, ["quantity", "factor"], "value"),
        ("removed", figures_cells.removed_sheet, ["metric"], "mean"),
    ],
)
def test_sheets_over_steps_draw_their_csv(report, name, sheet, key, value):
    data = pd.read_csv(report.folder / f"{name}.csv")
    heights = [line.get_ydata() for axes in sheet(data, LOOKS).axes for line in axes.lines]
    groups = data.groupby([*key, "arm"], sort=False)[value]
    assert groups.ngroups > 3
    for _, own in groups:
        assert any(np.array_equal(height, own) for height in heights)


def test_removals_leave_out_what_never_acted(report):
    data = pd.read_csv(report.folder / "removed.csv")
    assert "receipt/masked" not in set(data["metric"])
    assert "receipt/truncated" in set(data["metric"])


def test_pass_at_k_draws_its_csv(frame):
    data = plotted.pass_frame(frame)
    last = data[data["when"] == "last"]
    assert sorted(set(last["k"])) == [1, 4]
    grpo = last[(last["arm"] == "grpo") & (last["k"] == 4)].iloc[0]
    own = frame.steps[(frame.steps["arm"] == "grpo") & frame.steps["step"].isin([20, 30, 40])]
    assert grpo["mean"] == pytest.approx(own["eval/pass_at_k"].mean())
    axes = figures_cells.pass_at_k(last, Figure().subplots(), LOOKS)
    heights = [line.get_ydata() for line in axes.lines]
    for arm in ARMS:
        own = last[last["arm"] == arm].sort_values("k")["mean"].to_numpy()
        assert any(np.array_equal(height, own) for height in heights)


def test_score_draws_a_point_per_cell(frame):
    data = plotted_cells.score_frame(frame)
    part = data[data["heaviness"] == "khat_right"]
    axes = figures_cells.score(part, Figure().subplots(), LOOKS)
    points = np.concatenate([line.get_xydata() for line in axes.lines])
    expected = frame.finished[["khat_right", "eval_greedy"]].to_numpy()
    np.testing.assert_array_equal(points[np.lexsort(points.T)], expected[np.lexsort(expected.T)])


@pytest.mark.parametrize(
    ("name", "data", "settings"),
    [
        ("layers", plotted_cells.layers_frame, ["no noise", "all", "early", "late"]),
        ("sites", plotted_cells.sites_frame, ["no noise", "layer_input", "mlp_output"]),
    ],
)
def test_ablations_stand_beside_their_control(ablations, name, data, settings):
    noisy = ablations[name]
    rows = data(noisy)
    one = rows[rows["endpoint"] == "final_reward"]
    assert one["setting"].tolist() == settings
    axes = figures_cells.intervals(one, Figure().subplots(), style.looks(noisy.cells))
    means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() != "None"]
    np.testing.assert_allclose(means, one["mean"])
    control = noisy.finished[noisy.finished["arm"] == "seq-bypass"]["final_reward"]
    assert one["mean"].iloc[0] == pytest.approx(control.mean())
    assert (one["interval"] == "t").all()


def test_sigma_is_one_cell_of_the_map_per_layer_and_step(frame):
    lines = [
        {"cell_id": "0500abcdef", "arm": "seq-alp", "seed": 0, "step": step}
        | {f"sigma/layer_{layer:02d}": layer + step / 10 for layer in (0, 2)}
        for step in (1, 2, 3)
    ]
    own = type(frame)(frame.cells, pd.DataFrame(lines), frame.records, frame.grid)
    data = plotted.sigma_frame(own)
    figure = figures_cells.sigma_sheet(data, style.looks(frame.cells))
    (mesh,) = figure.axes[0].collections
    np.testing.assert_allclose(mesh.get_array(), [[0.1, 0.2, 0.3], [2.1, 2.2, 2.3]])


def test_long_runs_are_averaged_over_windows(frame, monkeypatch):
    monkeypatch.setattr(plotted, "POINTS", 10)
    data = plotted.over_steps(frame, ["kl/k3"])
    own = data[data["arm"] == "gspo"]
    assert own["step"].tolist() == list(range(4, 41, 4))
    steps = frame.steps[(frame.steps["arm"] == "gspo") & frame.steps["step"].between(5, 8)]
    assert own["mean"].iloc[1] == pytest.approx(steps["kl/k3"].mean())


def test_three_seeds_have_the_t_interval_and_two_their_range(frame):
    row = plotted.over_steps(frame, ["reward/mean"]).iloc[6]
    values = frame.steps.loc[
        (frame.steps["arm"] == row["arm"]) & (frame.steps["step"] == row["step"]), "reward/mean"
    ]
    half = 4.302652729911275 * values.std() / np.sqrt(3)
    np.testing.assert_allclose(
        [row["mean"], row["low"], row["high"]],
        [values.mean(), values.mean() - half, values.mean() + half],
    )
    two = type(frame)(frame.cells, frame.steps[frame.steps["seed"] < 2], frame.records, frame.grid)
    rows = plotted.over_steps(two, ["reward/mean"])
    assert set(rows["interval"]) == {"range"}


def test_every_figure_of_the_list_draws_or_says_why(frame, ablations):
    absent = []
    for plan in PLANS:
        data = plan.data(frame)
        if data.empty:
            absent.append(plan.name)
            assert plan.absent.endswith(".")
            continue
        with style.context():
            figure = plan.sheet(data, style.looks(frame.cells))
        assert any(axes.has_data() for axes in figure.axes)
        assert len(plan.alt(frame, data)) > 60
    assert absent == ["layers_intervals", "sites_intervals"]
    for name in absent:
        (plan,) = [plan for plan in PLANS if plan.name == name]
        noisy = ablations[name.removesuffix("_intervals")]
        data = plan.data(noisy)
        figure = plan.sheet(data, style.looks(noisy.cells))
        assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list(
            dict.fromkeys(data["setting"])
        )


def test_arms_without_a_colour_of_their_own_are_told_apart():
    arms = ["grpo", "mine", "yours", "yours perturbation.layers=early"]
    looks = style.looks(pd.DataFrame({"arm": arms, "site": None, "layers": None}))
    assert looks[arms[2]].colour == looks[arms[3]].colour
    assert looks["grpo"].colour == style.METHOD_COLOURS["grpo"]
    colours = {to_hex(look.colour) for look in looks.values()}
    assert len(colours) == 3
