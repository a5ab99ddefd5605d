"""The committed experiments for real: minutes long, run by `make test-slow`."""

import json
from pathlib import Path

import numpy as np
import pytest

from alpkit.config import expand, load_ablation
from alpkit.launch import Options, run_grid
from alpkit.runs import records

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
pytestmark = pytest.mark.slow


def run(name, place, *overrides, only):
    grid = expand(load_ablation(EXPERIMENTS / f"{name}.yaml", overrides))
    outcome = run_grid(grid, Options(root=place, only=only))
    assert [record.state for record in outcome.records if record.state != "pending"] == [
        "finished" for cell in grid.cells if cell.arm in only
    ]
    return {cell.seed: outcome.folder / cell.cell_id for cell in grid.cells if cell.arm in only}


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_quickstarts_grpo_learns_on_every_seed(workplace):
    """At least 8 points of greedy accuracy on 512 held-out items; last 3 evaluations here."""
    cells = run("quickstart", workplace, "train.steps=20", "eval.every=5", only=("grpo",))
    assert sorted(cells) == [0, 1, 2]
    for seed, folder in cells.items():
        greedy = [line["eval/greedy"] for line in metrics(folder) if "eval/greedy" in line]
        assert 0.40 <= greedy[0] <= 0.65
        assert np.mean(greedy[-3:]) - greedy[0] >= 0.08, (seed, greedy)


@pytest.mark.parametrize("engine", ["hf", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_a_tiny_model_learns_to_call_its_tool_on_every_seed(workplace, engine):
    """At least 10 points of held-out reward, the mean of 2 samples a question, in half the steps of the file."""
    if engine == "vllm":
        pytest.importorskip("vllm")
    path = f"task.path={EXPERIMENTS / 'tool_tiny.jsonl'}"
    cells = run(
        "tool_tiny", workplace, path, f"rollout.engine={engine}", "train.steps=8", only=("grpo",)
    )
    assert sorted(cells) == [0, 1]
    for seed, folder in cells.items():
        lines = metrics(folder)
        reward = [line["eval/avg_at_k"] for line in lines if "eval/avg_at_k" in line]
        assert 0.1 <= reward[0] <= 0.4
        assert reward[-1] - reward[0] >= 0.10, (seed, reward)
        # What rises is the share of responses that call the tool; it answers, and is not stopped.
        assert lines[-1]["tool/calls"] > lines[1]["tool/calls"]
        assert lines[-1]["tool/stopped"] == 0


@pytest.mark.vllm
def test_smollm2_through_vllm_shows_the_fp8_mismatch(workplace):
    """Two steps of experiments/smollm2_vllm.yaml: real weights, an fp8 KV cache, a real sync."""
    pytest.importorskip("vllm")
    (folder,) = run("smollm2_vllm", workplace, "train.steps=2", only=("token-tis",)).values()
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [0, 1, 2]
    for line in lines[1:]:
        assert 0.2 < line["ratio/mismatch/token/std"] < 1.5
        assert line["ratio/staleness/token/std"] < line["ratio/mismatch/token/std"]
        assert line["probe/gap_mean"] < 1.5
    frame = records.read(folder)
    log_w = frame["logp_old"] - frame["logp_rollout"]
    assert 0.2 < log_w.std() < 1.5
    assert (np.exp(log_w) > 2).mean() > 0
