"""Turns in the report: planted splits of the ratio come back, and grids of one turn show nothing."""

import numpy as np
import pytest

from alpkit import analysis
from alpkit.analysis.figures import by_turn as figure_by_turn
from alpkit.analysis.figures import style
from alpkit.analysis.figures import turns as figure_turns
from alpkit.analysis.tables.turns import by_turn_frame, by_turn_table, open_to, turns_table
from alpkit.config.environment import NOT_ISOLATED
from tests.support.turn_grid import TURNS, write_turn_grid


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    root = tmp_path_factory.mktemp("talks")
    write_turn_grid(root)
    return analysis.load("talks", root=root)


def test_every_turn_s_quantiles_are_those_of_its_tokens(talks):
    """Against numpy over all records of the arm, to 1e-6."""
    frame = by_turn_frame(talks)
    tokens = talks.records.tokens(arm="grpo")
    ratio = tokens["logp_train"].astype(float) - tokens["logp_rollout"]
    for turn in range(TURNS):
        own = ratio[tokens["turn"] == turn]
        token = frame[(frame.arm == "grpo") & (frame.turn == turn + 1) & (frame.level == "token")]
        right, left = (token[token.side == side].iloc[0] for side in ("right", "left"))
        assert right["n"] == left["n"] == len(own)
        assert right["p98"] == pytest.approx(np.quantile(own, 0.98), abs=1e-6)
        assert -left["p98"] == pytest.approx(np.quantile(own, 0.02), abs=1e-6)
        keys = ["seed", "step", "sample"]
        product = ratio[own.index].groupby([tokens.loc[own.index, key] for key in keys]).sum()
        whole = frame[(frame.arm == "grpo") & (frame.turn == turn + 1) & (frame.level == "product")]
        assert whole["n"].iloc[0] == len(product)
        assert whole[whole.side == "right"]["max"].iloc[0] == pytest.approx(product.max(), abs=1e-5)
        assert whole[whole.side == "right"]["ess"].iloc[0] == pytest.approx(
            np.exp(product).sum() ** 2 / (len(product) * np.exp(2 * product).sum()), rel=1e-6
        )


def test_turns_add_up_to_the_whole(talks):
    frame = by_turn_frame(talks)
    token = frame[(frame.level == "token") & (frame.side == "right")]
    for arm, part in token.groupby("arm"):
        assert part["n"].sum() == talks.pooled[arm].levels["token"].n
        # The last turn is there for half of the responses.
        assert part["n"].tolist()[-1] * 2 == part["n"].tolist()[0]


def test_a_turn_that_was_planted_wider_is_wider_in_table_and_figure(talks):
    table = by_turn_table(talks)
    assert len(table.shown) == 2 * TURNS
    for arm in talks.arms:
        widths = table.shown[table.shown["arm"] == arm]["P98 − P2"].astype(float).to_numpy()
        np.testing.assert_allclose(widths / widths[0], [1, 2, 3], rtol=0.1)
    data = figure_by_turn.numbers(talks)
    figure = figure_by_turn.sheet(data, style.looks(talks.cells))
    drawn = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == TURNS]
    for line, arm in zip(drawn, talks.arms, strict=True):
        own = data[(data.arm == arm) & (data.level == "token") & (data.statistic == "width")]
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), own["value"])
    assert "width" in figure_by_turn.alt(talks, data)


def test_metrics_of_turns_are_averaged_over_the_last_steps_and_the_seeds(talks):
    table = turns_table(talks)
    last = talks.steps[(talks.steps.arm == "grpo") & (talks.steps.step > 30)]
    wanted = last.groupby("cell_id")["turns/mean"].mean().mean()
    row = table.data[table.data["arm"] == "grpo"].iloc[0]
    assert row["turns/mean_mean"] == pytest.approx(wanted)
    assert row["n"] == 3
    data = figure_turns.numbers(talks)
    assert set(data["metric"]) == set(figure_turns.DRAWN) - {"tool/stopped"}  # never above 0
    figure = figure_turns.sheet(data, style.looks(talks.cells))
    assert [panel.get_title() for panel in figure.axes if panel.get_visible()] == [
        title for key, title in figure_turns.DRAWN.items() if key != "tool/stopped"
    ]
    assert "void responses: 0.19 to 0.00" in figure_turns.alt(talks, data)


def test_a_grid_of_one_turn_shows_nothing_of_it(frame):
    assert turns_table(frame).data.empty
    assert by_turn_table(frame).data.empty
    assert figure_turns.numbers(frame).empty
    assert figure_by_turn.numbers(frame).empty
    assert not any(frame.pooled[arm].turns for arm in frame.arms)


def test_a_report_of_turns_has_its_section_and_says_what_a_weak_sandbox_leaves_open(
    tmp_path, words_only
):
    write_turn_grid(tmp_path, seeds=(0, 1), steps=12, sandbox="weak")
    page = (analysis.analyze("talks", root=tmp_path).folder / "report.md").read_text()
    assert "Turns and tool calls" in page
    assert "The ratio turn by turn" in page
    for door in NOT_ISOLATED:
        assert door in page
    grid = analysis.load("talks", root=tmp_path)
    assert "the network" in open_to(grid, "grpo")


def test_a_strict_sandbox_needs_no_warning(talks):
    assert {open_to(talks, arm) for arm in talks.arms} == {""}
