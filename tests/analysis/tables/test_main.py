"""The main result holds IQM, points, and both probabilities."""

import re

import numpy as np
import pytest
from scipy import stats

from alpkit import analysis
from alpkit.analysis.pairs import pairs
from alpkit.analysis.seeds.rliable import improvement, iqm
from alpkit.analysis.seeds.verdicts import verdicts
from alpkit.analysis.tables.main import main_table
from tests.support.synthetic_grid import write_grid


def main_of(frame):
    compared = pairs(frame)
    return main_table(
        frame, compared, verdicts(frame.cells, [(p.arm, p.control) for p in compared])
    )


def test_main_result_holds_iqm_points_and_both_probabilities(frame):
    table = main_of(frame)
    row = table.data.set_index(["arm", "score"]).loc["seq-alp", "final_reward"]
    scores = frame.cells.set_index(["arm", "seed"])["final_reward"]
    own, control, grpo = (scores[arm] for arm in ("seq-alp", "seq-bypass", "grpo"))
    assert row["iqm"] == pytest.approx(iqm(own))
    assert row["iqm"] == pytest.approx(stats.trim_mean(own, 0.25))
    assert (row["control"], row["n"]) == ("seq-bypass", 3)
    assert row["over_control"] == improvement(own, control).value == 1.0
    assert row["over_grpo"] == improvement(own, grpo).value
    paired = [float(p) for p in row["paired"].split(";")]
    np.testing.assert_allclose(paired, (own - control).to_numpy(), rtol=1e-6)


def test_below_five_seeds_the_points_stand_where_the_interval_would(frame, tmp_path):
    shown = main_of(frame).shown
    assert all(text.count("·") == 2 and "[" not in text for text in shown["95 % or points"])
    write_grid(tmp_path, arms=("grpo", "token-tis"), seeds=range(5), steps=12)
    table = main_of(analysis.load("synthetic", root=tmp_path))
    assert all(re.fullmatch(r"\[0\.\d+, 0\.\d+\]", text) for text in table.shown["95 % or points"])
    assert "[" in table.shown["P(> control)"].iloc[-1]
    for row in table.data.to_dict("records"):
        assert row["iqm_low"] <= row["iqm"] <= row["iqm_high"]
    # GRPO has no control, and is not compared with itself.
    assert table.data["over_control"].isna().tolist() == [True, True, False, False]
