"""Several evaluation sets in a run: their keys, when the mean is there, and the counts in the run folder."""

import json

import numpy as np
import pytest
import torch

from alpkit.config import RunConfig
from alpkit.diagnostics.passes import pass_at_k
from alpkit.runs.evaluations import read_evaluations
from alpkit.runs.steps import CellTracker
from alpkit.trainer import train_cell

DATA = {
    "rollout": {"prompts": 4, "group": 2},
    "train": {"steps": 3, "updates_per_rollout": 2, "lr": 1e-5},
    "eval": {"every": 1, "k": 3},
    "evals": [
        {"name": "three", "items": 10},
        {
            "name": "two",
            "task": {"name": "addition", "digits": 2},
            "items": 5,
            "k": 2,
            "every": 2,
            "top_p": 0.9,
        },
    ],
    "checkpoint": {"every": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    train_cell(RunConfig.model_validate(DATA), folder, CellTracker(folder))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return folder, {line["step"]: line for line in lines}


def test_each_set_has_its_keys_and_the_mean_is_there_when_all_were_due(run):
    _, lines = run
    for step, line in lines.items():
        assert "eval/three/greedy" in line
        due = step in (0, 2, 3)  # the last step always
        assert ("eval/two/greedy" in line) is due
        assert ("eval/greedy" in line) is due
    for stat in ("greedy", "avg_at_k", "pass_at_k"):
        line = lines[2]
        mean = (line[f"eval/three/{stat}"] + line[f"eval/two/{stat}"]) / 2
        assert line[f"eval/{stat}"] == pytest.approx(mean, abs=1e-12)


def test_the_counts_of_every_item_are_kept_and_give_what_was_logged(run):
    folder, lines = run
    found = {(counts.step, counts.set): counts for counts in read_evaluations(folder)}
    assert set(found) == {(s, "three") for s in range(4)} | {(s, "two") for s in (0, 2, 3)}
    for (step, name), counts in found.items():
        assert counts.samples == {"three": 3, "two": 2}[name]
        assert len(set(counts.items)) == {"three": 10, "two": 5}[name]
        curve = pass_at_k(counts.solved, counts.samples).mean(axis=0)
        assert lines[step][f"eval/{name}/pass_at_k"] == pytest.approx(curve[-1], abs=1e-9)
        assert lines[step][f"eval/{name}/avg_at_k"] == pytest.approx(curve[0], abs=1e-9)
        assert lines[step][f"eval/{name}/greedy"] == pytest.approx(np.mean(counts.greedy))
    assert found[0, "three"].items == found[3, "three"].items


def test_a_resumed_run_keeps_each_evaluation_once(run):
    folder, _ = run
    before = read_evaluations(folder)
    train_cell(RunConfig.model_validate(DATA), folder, CellTracker(folder))
    assert read_evaluations(folder) == before
