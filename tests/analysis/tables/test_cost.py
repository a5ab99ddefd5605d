"""Time and memory per arm add up."""

import json

import numpy as np
import pandas as pd

from alpkit import analysis
from alpkit.analysis.tables.cost import cost_frame


def test_cost_leaves_evaluation_out_and_adds_up(frame):
    data = cost_frame(frame)
    assert len(data) == 18
    # Every step takes 2 s beside its evaluation, and trains on 480 tokens.
    np.testing.assert_allclose(data["step_s"], 2.0)
    np.testing.assert_allclose(data["tokens_per_s"], 240.0)
    np.testing.assert_allclose(data["diagnostics_share"], 0.1)
    np.testing.assert_allclose(data["rollout_share"] + data["update_share"], 0.9)
    assert "peak_gib" not in data


def test_cost_has_memory_where_it_was_logged(small_root, words_only):
    for path in small_root.glob("runs/small/*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["memory/peak"] = 1.0 + line["step"] / 100
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = analysis.analyze("small", root=small_root)
    assert "peak memory, GiB" in (report.folder / "cost.md").read_text()
    np.testing.assert_allclose(pd.read_csv(report.folder / "cost.csv")["peak_gib"], 1.12)
