"""A run has one score: the terminal's table and the report average the same steps."""

import numpy as np
import pytest

from alpkit.cli.tables import result_rows
from alpkit.runs.states import read_cell


def test_the_terminal_and_the_report_score_alike(frame):
    folder = frame.grid.folder
    rows = result_rows(folder, [read_cell(folder / cell) for cell in frame.cells["cell_id"]])
    assert [row["arm"] for row in rows] == frame.arms
    for row in rows:
        own = frame.finished[frame.finished["arm"] == row["arm"]]
        columns = {
            "reward/mean": "final_reward",
            "eval/greedy": "eval_greedy",
            "eval/avg_at_k": "eval_avg_at_k",
        }
        for key, column in columns.items():
            # Sums in another order: the last bit may differ.
            assert row[key]["mean"] == pytest.approx(own[column].mean(), rel=1e-12)
            assert row[key]["std"] == pytest.approx(np.std(own[column], ddof=1), rel=1e-9)
