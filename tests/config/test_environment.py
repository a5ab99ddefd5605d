"""The environment section: what it allows, refuses and hides from ids; turn levels with and without it."""

import re
from pathlib import Path

import pytest
import yaml

from alpkit.config import RunConfig, expand, load_ablation
from alpkit.config import environment as section
from alpkit.config.environment import (
    NOT_ISOLATED,
    PluginEnvironmentConfig,
    ToolMathConfig,
    not_isolated,
)
from alpkit.config.grid.own_methods import load_method
from alpkit.errors import ConfigError
from alpkit.tasks import Item

GRID = """\
name: talk
base:
  task: {name: math, levels: [1]}
  rollout: {max_tokens: 128}
  environment: {%s}
arms: [%s]
"""


def load(folder, settings="turns: 3", arms="grpo"):
    path = folder / "talk.yaml"
    path.write_text(GRID % (settings, arms))
    return expand(load_ablation(path))


def test_tool_math_is_the_default_and_its_fields_are_part_of_the_cell(tmp_path):
    (cell, *_) = load(tmp_path).cells
    assert cell.config.environment == ToolMathConfig(turns=3)
    ids = {
        load(tmp_path, text).cells[0].cell_id
        for text in ("", "turns: 3", "void: keep", "seconds: 9")
    }
    assert len(ids) == 4
    # A run without an environment is the cell that it always was.
    assert RunConfig().cell_id() == RunConfig(environment=None).cell_id() == "92242f1f33"


def test_a_section_round_trips():
    run = RunConfig.model_validate(
        {"task": {"name": "math"}, "environment": {}, "rollout": {"max_tokens": 64}}
    )
    assert RunConfig.model_validate(run.model_dump(mode="json")) == run
    assert run.turn_tokens == 64
    own = run.model_copy(update={"environment": ToolMathConfig(turn_tokens=9)})
    assert own.turn_tokens == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("turns: 1", "environment.turns: wanted a number >= 2"),
        ("turn: 3", "did you mean 'turns'?"),
        ("name: tool_maths", "environment.name: wanted one of tool_math"),
        ("sandbox: none", "wanted one of strict, weak, got the text 'none'"),
        ("output: 'no place'", "environment.output"),
        ("turn_tokens: 128", "environment.turn_tokens 128 bounds nothing"),
        ("memory_mib: 8", "environment.memory_mib: wanted a number >= 64"),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(tmp_path, settings, message):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, settings)
    assert message in str(caught.value)
    assert "talk.yaml:5:" in str(caught.value)


def test_a_context_that_no_whole_response_fits_is_refused():
    rollout = {"engine": "vllm", "max_tokens": 1024, "max_model_len": 1024}
    run = {"task": {"name": "math"}, "environment": {}, "rollout": rollout}
    with pytest.raises(ValueError, match="max_model_len 1024 must hold a prompt and a response"):
        RunConfig.model_validate(run)


@pytest.mark.parametrize("task", ["{name: addition}", "{name: file, path: a.csv, grader: exact}"])
def test_a_task_that_reads_no_box_is_refused(tmp_path, task):
    path = tmp_path / "a.yaml"
    path.write_text(f"name: a\nbase: {{task: {task}, environment: {{}}}}\narms: [grpo]\n")
    with pytest.raises(ConfigError, match="task compares whole texts"):
        expand(load_ablation(path))
    path.write_text(
        f"name: a\nbase:\n  task: {{name: math}}\n  environment: {{}}\n"
        f"  evals: [{{name: x, task: {task}}}]\narms: [grpo]\n"
    )
    with pytest.raises(ConfigError, match=r"evals\[0\].task compares whole texts"):
        expand(load_ablation(path))


@pytest.mark.parametrize("level", ["turn", "cumulative_turn"])
def test_turn_levels_need_turns(tmp_path, level):
    arm = f"{{preset: seq-bypass, name: a, objective: {{ratio: {{level: {level}}}}}}}"
    assert load(tmp_path, arms=arm).cells[0].config.objective.ratio.level == level
    with pytest.raises(ValueError, match="add an environment"):
        RunConfig.model_validate({"objective": {"ratio": {"level": level}}})
    # A method file says nothing of the runs that it will be used on.
    method = tmp_path / "turns.yaml"
    method.write_text(f"preset: seq-bypass\nobjective: {{ratio: {{level: {level}}}}}\n")
    assert load_method(method).run.objective.ratio.level == level


def test_a_weak_sandbox_is_a_warning_of_plan_and_run_that_names_every_open_door(tmp_path):
    assert not [text for text in load(tmp_path).warnings if "isolated" in text]
    (warning,) = set(load(tmp_path, "sandbox: weak").warnings) - set(load(tmp_path).warnings)
    for door in NOT_ISOLATED:
        assert door in warning
    assert not_isolated(ToolMathConfig()) == not_isolated(None) == ""


def test_a_package_s_environment_is_a_section_like_any_other(monkeypatch):
    monkeypatch.setattr(section, "environment_names", lambda: ("maze",))
    run = RunConfig.model_validate(
        {"environment": {"name": "maze", "params": {"size": 3}, "turns": 9}}
    )
    assert run.environment == PluginEnvironmentConfig(name="maze", params={"size": 3}, turns=9)


def test_the_docs_environment_talks():
    page = (Path(__file__).parents[2] / "docs/environments.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "environments.md", "exec"), space := {})
    own = space["AskAgain"]()
    state = own.start(Item("2+2=", "4"))
    assert own.reply(state, "5 ").text == "Wrong. Again: 2+2="
    assert own.reply(state, "4") is None
    assert (state.answer, state.void) == ("4", False)
    assert own.reply(state, "four") is None
    assert state.void


def test_docs_show_a_section_that_is_valid():
    page = (Path(__file__).parents[2] / "docs/environments.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert blocks
    for block in blocks:
        RunConfig.model_validate(block)
