"""One row per arm; of many arms the tested and the best."""

import pytest

from alpkit import analysis
from alpkit.analysis.tables.overview import MOST, overview, overview_table
from alpkit.analysis.text import brief, number
from tests.support.synthetic_grid import write_variants


def test_rows_hold_the_planted_truths(frame):
    data = overview_table(overview(frame)).data.set_index("arm")
    assert data["khat_right_mean"].idxmax() == "seq-bypass"
    # Planted: 0.3 + spread / 2 with a spread of 0.8; noise of 0.02 over 3 seeds x 40 steps.
    assert data.loc["seq-bypass", "khat_right_mean"] == pytest.approx(0.7, abs=0.01)
    assert data["eval_greedy_mean"].idxmax() == "seq-alp"
    assert data.loc["token-tis", "weight_removed_mean"] == pytest.approx(0.4)


def test_of_many_arms_the_tested_and_the_best_are_shown(tmp_path):
    values = tuple(str(n) for n in range(12))
    write_variants(
        tmp_path, name="many", field="layers", values=values, steps=4, seeds=(0,), records=False
    )
    frame = analysis.load("many", root=tmp_path, strict=False)
    found = overview(frame)
    assert found.arms == 14
    assert len(found.rows) == MOST
    assert "seq-bypass" in [row.arm for row in found.rows]


@pytest.mark.parametrize(
    ("value", "text"), [(0.03664, "0.0366"), (1243.0, "1,240"), (12.44, "12.4"), (0.0, "0")]
)
def test_three_significant_digits(value, text):
    assert brief(value) == text


def test_fixed_digits_round_once():
    # 0.8746 rounded to three digits first would come out as 0.88.
    assert number(0.8746, 2) == "0.87"
    assert number(12345.6, 0) == "12300"
