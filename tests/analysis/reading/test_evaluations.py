"""pass@k for every k from per-item counts: by value, over sets, steps and seeds; and without counts as before."""

import numpy as np
import pytest

from alpkit import analysis
from alpkit.analysis.figures.passk import numbers
from alpkit.diagnostics.passes import pass_at_k, reach_over_sets
from alpkit.runs.evaluations import Counts, append_evaluations
from tests.support.synthetic_grid import write_grid

EASY, HARD = [4, 4, 2, 1], [0, 1, 0]


@pytest.fixture
def folder(tmp_path):
    return write_grid(
        tmp_path, arms=("grpo", "token-tis"), seeds=(0, 1), steps=40, controls={}, records=False
    )


def load(folder):
    return analysis.load(str(folder), strict=False)


def give_counts(cell, seed, *, samples=4):
    for step in (0, 20, 40):
        easy = [max(n - seed, 0) for n in EASY]
        append_evaluations(
            cell,
            [
                Counts(step, "easy", samples, easy, [0.0] * 4, [0.0] * 4, list("abcd")),
                Counts(step, "hard", samples, HARD, [0.0] * 3, [0.0] * 3, list("efg")),
            ],
        )


def test_every_k_up_to_the_samples_is_drawn(folder):
    for cell in load(folder).finished.itertuples():
        give_counts(folder / cell.cell_id, cell.seed)
    data = numbers(load(folder))
    last = data[(data["when"] == "last") & (data["arm"] == "grpo")].sort_values("k")
    assert last["k"].tolist() == [1, 2, 3, 4]
    curves = [
        (
            pass_at_k([max(n - seed, 0) for n in EASY], 4).mean(axis=0)
            + pass_at_k(HARD, 4).mean(axis=0)
        )
        / 2
        for seed in (0, 1)
    ]
    np.testing.assert_allclose(last["mean"], np.mean(curves, axis=0), atol=1e-12)
    assert last["n"].tolist() == [2] * 4
    # A problem's seeds are one value: what differs between problems makes the interval.
    easy = np.mean([pass_at_k([max(n - seed, 0) for n in EASY], 4) for seed in (0, 1)], axis=0)
    reach = reach_over_sets([easy, pass_at_k(HARD, 4)])
    np.testing.assert_allclose(last["high"] - last["mean"], reach, atol=1e-12)
    np.testing.assert_allclose(last["mean"] - last["low"], reach, atol=1e-12)
    assert set(last["interval"]) == {"problems"}
    assert set(last["problems"]) == {7}
    np.testing.assert_allclose(last["low_seeds"], np.min(curves, axis=0), atol=1e-12)
    np.testing.assert_allclose(last["high_seeds"], np.max(curves, axis=0), atol=1e-12)
    steps = data[data["when"] == "step"]
    assert sorted(set(steps["step"])) == [0, 20, 40]


def test_a_step_at_which_a_set_was_left_out_is_no_point(folder):
    frame = load(folder)
    for cell in frame.finished.itertuples():
        give_counts(folder / cell.cell_id, cell.seed)
        append_evaluations(
            folder / cell.cell_id, [Counts(30, "easy", 4, EASY, [0.0] * 4, [0.0] * 4, list("abcd"))]
        )
    assert 30 not in set(numbers(load(folder))["step"])


def test_without_counts_there_are_the_two_points_that_were_logged(folder):
    frame = load(folder)
    first = frame.finished.iloc[0]
    give_counts(folder / first["cell_id"], 0)  # one cell alone is no comparison
    assert set(numbers(load(folder))["k"]) == {1, 4}


def test_problems_of_which_seeds_saw_different_ones_are_paired_by_their_prompt(folder):
    frame = load(folder)
    for cell in frame.finished.itertuples():
        items = ["a", "b", "c"] if cell.seed == 0 else ["c", "b", "d"]
        solved = [4, 0, 2] if cell.seed == 0 else [0, 0, 4]
        line = Counts(40, "easy", 4, solved, [0.0] * 3, [0.0] * 3, items)
        append_evaluations(folder / cell.cell_id, [line])
    last = numbers(load(folder)).query("arm == 'grpo' and k == 1 and when == 'last'").iloc[0]
    assert last["problems"] == 4
    reach = reach_over_sets([np.array([[1.0], [0.0], [0.25], [1.0]])])[0]
    assert last["high"] - last["mean"] == pytest.approx(reach, abs=1e-12)
