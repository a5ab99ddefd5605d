"""The JSON schemas accept every committed file and refuse what beginners write; docs and editors read them."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from alpkit.config.files.yaml import load_yaml, parse_yaml
from alpkit.config.schema import as_text, schema
from tests.config.files import test_faults
from tests.config.grid import test_ablation

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "experiments").rglob("*.yaml"))
HEAD = "name: a\narms: [grpo]\n"
# What only `alpkit plan` can know: numbers that must fit one another, places, and what an arm uses.
BEYOND = (
    *("must be below upper", "does not divide", "so that no step would have", "does nothing with"),
    *("is a hard bound", "listed twice", "must have one length", "in axes and in zip"),
    *(
        "there is no arm",
        "correct the",
        "leaves no cell",
        "task.dataset is missing",
        "wanted a finite number",
    ),
)


def kind_of(path):
    return "method" if "method.schema" in path.read_text().splitlines()[0] else "ablation"


@functools.cache
def validator(kind):
    return jsonschema.Draft202012Validator(schema(kind))


def faults(data, kind="ablation"):
    return list(validator(kind).iter_errors(data))


@pytest.mark.parametrize("kind", ["ablation", "method"])
def test_the_committed_schema_is_the_printed_one(kind):
    path = ROOT / f"experiments/{kind}.schema.json"
    assert path.read_text() == as_text(schema(kind)), f"alpkit schema {kind} > {path}"
    jsonschema.Draft202012Validator.check_schema(schema(kind))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_every_committed_experiment_names_its_schema_and_fits_it(path):
    first = path.read_text().splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named, f"{path} needs the line in front by which editors find the schema"
    assert (path.parent / named[1]).resolve().parent == ROOT / "experiments"
    assert (path.parent / named[1]).is_file()
    assert faults(load_yaml(path).data, kind_of(path)) == []


def cases(function):
    return next(
        m for m in function.pytestmark if m.name == "parametrize" and "message" in str(m.args[0])
    ).args[1]


WRONG_FILES = [
    *cases(test_ablation.test_a_fault_of_the_file_is_named_where_it_stands),
    *cases(test_ablation.test_a_fault_of_a_cell_is_named_where_its_value_stands),
]
# A run's faults, as they would stand under base or, where base may not have them, in an arm.
WRONG_RUNS = [
    ("name: a\narms: [{preset: grpo, " + text + "}]\n", message)
    for text, message in cases(test_faults.test_one_fault_is_one_message)
]


@pytest.mark.parametrize(("text", "message"), [*WRONG_FILES, *WRONG_RUNS])
def test_a_mistake_that_a_schema_can_see_is_refused(text, message):
    data = parse_yaml(text, "a.yaml").data
    seen = bool(faults(data))
    assert seen is not any(words in message for words in BEYOND)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "base:\naxes:\n",
        "name: a\nmethods: [m.yaml]\narms: [mine, {preset: mine, name: x}]",
        HEAD + "base: {from: paper/single-turn-1.5b, rollout: {prompts: 64}}",
        HEAD + "base: {rollout: {kv_cache_dtype: fp8}, train: {lr: 1e-5}}",
        HEAD + "axes: {task.params.max_terms: [2, 3], perturbation: [null, {layers: early}]}",
        "name: a\narms: [{preset: seq-alp, perturbation: {schedule: constant, layers: [0, 2]}}]",
        "name: a\narms: [{name: x, objective: {reject: [{statistic: k3, upper: 1}]}}]",
        HEAD + "include: [{arm: grpo, train.lr: 1}]\nexclude: [{train.lr: 2}]",
        HEAD + "launch: {jobs: auto}\ntracking: {metrics: all}",
    ],
)
def test_what_alpkit_takes_is_not_refused(text):
    assert [fault.message for fault in faults(parse_yaml(text, "a.yaml").data)] == []


def test_every_field_has_its_help_and_its_default():
    train = schema("ablation")["$defs"]["TrainConfig"]["properties"]
    assert train["lr"]["description"].startswith("AdamW learning rate")
    assert train["lr"]["default"] == 2e-5
    rollout = schema("ablation")["$defs"]["EngineOfHfRolloutConfig"]
    assert rollout["properties"]["engine"]["enum"] == ["hf", "vllm"]


def test_the_command_prints_it():
    printed = subprocess.run(
        [sys.executable, "-m", "alpkit", "schema", "method"], capture_output=True, text=True
    )
    assert printed.stdout == as_text(schema("method"))
