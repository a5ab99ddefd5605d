"""Named bases: they are what experiments/paper spells out, and the file's own settings go over them."""

from pathlib import Path

import pytest

from alpkit.config import expand, load_ablation
from alpkit.config.bases import BASES
from alpkit.errors import ConfigError

PAPER = Path(__file__).parents[3] / "experiments" / "paper"


def load(folder, text):
    path = folder / "a.yaml"
    path.write_text(text)
    return expand(load_ablation(path))


@pytest.mark.parametrize(
    ("base", "file"),
    [
        ("paper/single-turn-1.5b", "single_turn_qwen2.5_math_1.5b"),
        ("paper/single-turn-4b", "single_turn_qwen3_4b"),
        ("paper/multi-turn-7b", "multi_turn_qwen2.5_7b"),
        ("paper/multi-turn-7b", "layers_7b"),
    ],
)
def test_a_named_base_is_what_its_experiment_spells_out(tmp_path, base, file):
    named = load(tmp_path, f"name: a\nbase: {{from: {base}}}\narms: [grpo]")
    spelled = expand(load_ablation(PAPER / f"{file}.yaml", [])).cells[0].config
    own = named.cells[0].config
    arms = {"objective", "perturbation", "seed"}
    assert own.model_dump(exclude=arms) == spelled.model_dump(exclude=arms)
    assert BASES[base].source


def test_the_published_settings_of_the_small_run():
    config = expand(load_ablation(PAPER / "single_turn_qwen2.5_math_1.5b.yaml")).cells[0].config
    assert (config.rollout.prompts, config.rollout.group, config.train.updates_per_rollout) == (
        512,
        8,
        16,
    )
    assert (config.train.lr, config.train.weight_decay, config.train.grad_clip) == (1e-6, 0.01, 1.0)
    assert (config.rollout.max_tokens, config.rollout.temperature) == (2048, 1.0)
    assert [entry.k for entry in config.evals] == [32] * 5


def test_the_published_settings_of_the_multi_turn_run():
    grid = expand(load_ablation(PAPER / "multi_turn_qwen2.5_7b.yaml"))
    config = grid.cells[0].config
    rollout, environment = config.rollout, config.environment
    assert (rollout.prompts, rollout.group, config.train.updates_per_rollout) == (128, 16, 4)
    assert (environment.turns, environment.turn_tokens, environment.reply_tokens) == (5, 8000, 256)
    assert (environment.void, environment.sandbox) == ("mask", "strict")
    # A context of 16,000 tokens, of which a first prompt may take 4,096.
    assert (rollout.max_model_len, rollout.max_tokens + 4096) == (16000, 16000)
    assert {(entry.k, entry.temperature, entry.top_p) for entry in config.evals} == {(32, 1.0, 0.7)}
    assert "paper/mt-seq-alp" in grid.controls
    layers = expand(load_ablation(PAPER / "layers_7b.yaml"))
    assert {
        cell.config.perturbation.layers for cell in layers.cells if cell.config.perturbation
    } == {*("all", "early", "middle", "late")}


def test_what_stands_beside_from_wins_and_a_kind_may_change(tmp_path):
    text = """name: a
base: {from: paper/single-turn-1.5b, rollout: {prompts: 64}, task: {path: mine.parquet}, model: other/model}
arms: [grpo, {preset: seq-bypass, rollout: {engine: hf}}]
"""
    grid = load(tmp_path, text)
    first, second = (cell.config for cell in grid.cells)
    assert (first.model, first.task.path, first.task.held_out) == (
        "other/model",
        "mine.parquet",
        "none",
    )
    assert (first.rollout.prompts, first.rollout.group, first.rollout.engine) == (64, 8, "vllm")
    assert (second.rollout.engine, second.rollout.weights, second.rollout.group) == (
        "hf",
        "float32",
        8,
    )


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (
            "{from: paper/single-turn-2b}",
            "a.yaml:2:14  'paper/single-turn-2b' is not a base\n  did you mean",
        ),
        ("{from: 3}", "a.yaml:2:14  3 is not a base"),
        (
            "{from: paper/single-turn-4b, rollout: {prompts: x}}",
            "a.yaml:2:55  rollout.prompts: wanted a whole",
        ),
        (
            "{from: paper/single-turn-4b, task: {paths: x}}",
            "a.yaml:2:43  task.paths is not a field of task (file)",
        ),
    ],
)
def test_faults_stand_where_they_are_written(tmp_path, monkeypatch, base, message):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(f"name: a\nbase: {base}\narms: [grpo]")
    with pytest.raises(ConfigError) as caught:
        load_ablation("a.yaml")
    assert message in str(caught.value)
