"""Several evaluation sets: defaults, disjointness from training, keys, and one error for each fault."""

import json

import pytest
from pydantic import ValidationError

from alpkit.config import RunConfig
from alpkit.errors import ConfigError
from alpkit.tasks.evaluation import ask
from alpkit.trainer.evaluate import over_sets


def config(**changes):
    return RunConfig.model_validate({"eval": {"items": 12, "k": 3, "every": 5}, **changes})


def test_the_short_form_is_one_set_of_the_training_task():
    asked = ask(config())
    (only,) = asked.sets
    assert (len(only.items), only.k, only.every, only.temperature) == (12, 3, 5, 1.0)
    assert only.task is asked.task


def test_what_a_set_leaves_out_is_the_run_s():
    asked = ask(
        config(
            prompt={"suffix": "!"},
            evals=[
                {"name": "same"},
                {
                    "name": "long",
                    "task": {"name": "addition", "digits": 5},
                    "items": 4,
                    "k": 8,
                    "temperature": 0.6,
                    "top_p": 0.9,
                    "max_tokens": 20,
                    "every": 10,
                    "suffix": "?",
                },
            ],
        )
    )
    same, long = asked.sets
    assert (len(same.items), same.k, same.top_p, same.max_tokens) == (12, 3, 1.0, 8)
    assert same.prompt.suffix == "!"
    assert long[3:8] == (8, 0.6, 0.9, 20, 10)
    assert (len(long.items), long.prompt.suffix) == (4, "?")
    assert len(long.items[0].prompt) == len("12345+12345=")


def test_what_is_evaluated_is_taken_out_of_training(tmp_path):
    pytest.importorskip("datasets")
    rows = [{"prompt": f"Q{n}", "answer": str(n)} for n in range(20)]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, rows[:6])))
    file = {"name": "file", "grader": "number", "path": str(tmp_path / "all.jsonl")}
    held = file | {"path": str(tmp_path / "some.jsonl"), "held_out": "all"}
    asked = ask(config(task=file | {"held_out": "none"}, evals=[{"name": "some", "task": held}]))
    assert {item.prompt for item in asked.task.train} == {f"Q{n}" for n in range(6, 20)}
    with pytest.raises(ConfigError, match="nothing left to train on"):
        ask(config(task=held | {"held_out": "none"}, evals=[{"name": "some", "task": held}]))
    with pytest.raises(ConfigError, match="cannot supply 7") as caught:
        ask(config(task=file, evals=[{"name": "some", "task": held, "items": 7}]))
    assert caught.value.where == "evals[0].items"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], "two sets are named 'a'"),
        ([{"name": "A b"}], "cannot be part of a metric's key"),
        ([{"name": "a", "top_p": 0}], "greater than 0"),
    ],
)
def test_faults_of_sets(entries, message):
    with pytest.raises(ValidationError, match=message):
        config(evals=entries)


def test_the_mean_over_sets_is_unweighted_and_counts_are_summed():
    metrics = over_sets(
        {
            "easy": {"greedy": 1.0, "avg_at_k": 0.8, "timeouts": 2.0},
            "hard": {"greedy": 0.0, "avg_at_k": 0.2, "timeouts": 1.0},
        }
    )
    assert metrics == {
        "eval/easy/greedy": 1.0,
        "eval/easy/avg_at_k": 0.8,
        "eval/easy/timeouts": 2.0,
        "eval/hard/greedy": 0.0,
        "eval/hard/avg_at_k": 0.2,
        "eval/hard/timeouts": 1.0,
        "eval/greedy": 0.5,
        "eval/avg_at_k": 0.5,
        "eval/timeouts": 3.0,
    }
