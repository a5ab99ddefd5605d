"""`alpkit eval`, and bad tasks that `alpkit run` refuses before it creates anything."""

import json
from pathlib import Path

import pytest

from tests.support.replay_runs import metrics_of, trained


def test_eval_of_a_model_gives_scores_with_intervals(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(
        "eval", "builtin:tiny-addition", "--task", "addition", "--items", 24, "--k", 3, "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert (found["items"], found["k"], found["max_tokens"]) == (24, 3, 512)
    assert 0.3 < found["greedy"]["mean"] < 0.8  # the built-in model solves about half
    assert found["greedy"]["low"] < found["greedy"]["mean"] < found["greedy"]["high"]
    passes = [entry["mean"] for entry in found["pass_at_k"]]
    assert len(passes) == 3
    assert passes == sorted(passes)
    assert passes[0] == pytest.approx(sum(found["solved"]) / 72, abs=1e-9)
    assert passes[-1] == pytest.approx(sum(n > 0 for n in found["solved"]) / 24, abs=1e-9)
    assert passes[0] == pytest.approx(found["avg_at_k"]["mean"], abs=1e-9)
    assert list(tmp_path.iterdir()) == []


def test_eval_of_a_cell_gives_the_run_s_own_last_scores_again(call, monkeypatch, tmp_path):
    """The newest checkpoint is the last step's, and a run's draws depend on its seed alone: equal to the bit."""
    monkeypatch.chdir(tmp_path)
    folder = trained(tmp_path / "cell", seed=3, eval={"items": 24, "k": 2})
    logged = metrics_of(folder)[2]
    code, out, err = call("eval", folder, "--items", 24, "--k", 2, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["step"] == 2
    assert found["greedy"]["mean"] == logged["eval/greedy"]
    assert found["avg_at_k"]["mean"] == logged["eval/avg_at_k"]
    assert found["pass_at_k"][-1]["mean"] == logged["eval/pass_at_k"]
    other = json.loads(call("eval", folder, "--items", 24, "--k", 2, "--seed", 4, "--json")[1])
    assert other["greedy"] == found["greedy"]
    assert other["avg_at_k"] != found["avg_at_k"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["builtin:tiny-addition"], "has no task of its own"),
        (["builtin:tiny-addition", "--task", "[1]"], "is no task"),
        (["builtin:tiny-addition", "--task", "{name: math, level: 1}"], "did you mean 'levels'"),
        (["nosuch", "--task", "addition"], "no run 'nosuch'"),
        (["builtin:tiny-addition", "--task", "addition", "--top-p", 2], "top_p"),
    ],
)
def test_eval_says_what_is_wrong(call, monkeypatch, tmp_path, args, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("eval", *args)
    assert code == 2
    assert message in " ".join(err.split())


GRID = """name: bad
base:
  model: builtin:tiny-addition
  task: {{name: file, grader: number, path: rows.jsonl{task}}}
  rollout: {{prompts: 4, group: 2}}
  train: {{steps: 1, updates_per_rollout: 2}}
  eval: {{items: 1}}
{more}arms: [grpo]
"""


@pytest.mark.parametrize(
    ("task", "more", "message"),
    [
        (", prompt: question", "", "no column 'question'"),
        ("", "  evals: [{name: a}, {name: a}]\n", "two sets are named 'a'"),
        ("", "  eval: {items: 999}\n", "duplicate key 'eval'"),
        ("", "  evals: [{name: a, items: 999}]\n", "evals[0].items"),
        ("", "  prompt: {template_args: {enable_thinking: false}}\n", "no chat template"),
        (", held_out: all", "", "nothing left to train on"),
    ],
)
def test_bad_tasks_are_refused_before_anything_is_created(
    call, monkeypatch, tmp_path, task, more, message
):
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(100)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("grid.yaml").write_text(GRID.format(task=task, more=more))
    code, _, err = call("run", "grid.yaml", "--tracking-uri", "sqlite:///store.db")
    assert code == 2
    assert message in " ".join(err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.yaml", "rows.jsonl"]
