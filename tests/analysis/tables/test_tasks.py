"""Methods that ran on several tasks are pooled within tasks, and only they."""

import json

import numpy as np
import pytest
import yaml
from scipy import stats

from alpkit import analysis
from alpkit.analysis.pairs import pairs
from alpkit.analysis.seeds.rliable import improvement
from alpkit.analysis.tables.tasks import methods_over_tasks, tasks_table
from tests.support.synthetic_grid import write_grid


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory):
    """grpo and token-tis, each on three and on four digits: six arms' files renamed and re-tasked."""
    root = tmp_path_factory.mktemp("tasks")
    arms = ("grpo", "gspo", "token-tis", "seq-mis")
    folder = write_grid(root, arms=arms, seeds=range(3), steps=20, records=False)
    configs = {
        a: yaml.safe_load((folder / f"{i:02d}00abcdef/config.yaml").read_text())
        for i, a in enumerate(arms)
    }
    become = {
        "grpo": ("grpo", 3),
        "gspo": ("grpo", 4),
        "token-tis": ("token-tis", 3),
        "seq-mis": ("token-tis", 4),
    }
    manifest = json.loads((folder / "grid.json").read_text())
    for cell in manifest["cells"]:
        method, digits = become[cell["arm"]]
        cell["arm"] = f"{method} digits={digits}"
        config = {**configs[method], "seed": cell["seed"]}
        config["task"] = {**config["task"], "digits": digits}
        (folder / cell["cell_id"] / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "grid.json").write_text(json.dumps({**manifest, "controls": {}}))
    return analysis.load("synthetic", root=root, strict=False)


def test_a_method_is_its_arms_on_all_tasks(two_tasks):
    compared = pairs(two_tasks)
    assert [(p.arm, p.control) for p in compared] == [
        ("token-tis digits=3", "grpo digits=3"),
        ("token-tis digits=4", "grpo digits=4"),
    ]
    table = tasks_table(two_tasks, compared)
    assert table.shown["method"].tolist() == ["grpo", "grpo", "token-tis", "token-tis"]
    assert set(table.shown["seeds × tasks"]) == {"3 × 2"}
    row = table.data.set_index(["method", "score"]).loc["token-tis", "final_reward"]
    scores = two_tasks.cells.set_index(["arm", "seed"])["final_reward"]
    ours, theirs = (
        np.column_stack([scores[f"{method} digits={d}"] for d in (3, 4)])
        for method in ("token-tis", "grpo")
    )
    assert row["iqm"] == pytest.approx(stats.trim_mean(ours, 0.25, axis=None))
    assert row["over_control"] == pytest.approx(improvement(ours, theirs).value)
    assert row["low"] <= row["iqm"] <= row["high"]


def test_one_task_is_no_table(frame):
    assert tasks_table(frame, pairs(frame)).data.empty


def test_arms_that_differ_in_more_than_the_task_are_not_pooled():
    configs = {
        "a digits=3": {"task": {"digits": 3}, "train": {"lr": 1}},
        "a digits=4": {"task": {"digits": 4}, "train": {"lr": 2}},
    }
    assert methods_over_tasks(configs) == []
