from typing import Literal

import pytest
from pydantic import ValidationError

from alpkit.config import RunConfig, explain, load_ablation
from alpkit.config.base import Section
from alpkit.config.files.faults import check_path, dotted, leaves
from alpkit.config.files.yaml import Fault, parse_yaml
from alpkit.errors import ConfigError


def explained(text: str, model: type[Section] = RunConfig) -> str:
    document = parse_yaml(text, "f.yaml")
    with pytest.raises(ValidationError) as caught:
        model.model_validate(document.data)
    return str(explain(caught.value, document, model=model))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "perturbation: {sigmaa: 1}",
            "f.yaml:1:16  perturbation.sigmaa is not a field of perturbation\n"
            "  did you mean 'sigma'?  allowed: antithetic, distribution, draws, gradient, layers, scale, schedule, "
            "sigma, site",
        ),
        (
            "rollout: {engine: vllm, weights: int4}",
            "f.yaml:1:25  rollout.weights is not a field of rollout (vllm)\n"
            "  allowed: dtype, engine, filter, group, head_dtype, kv_cache_dtype, lag, max_model_len, "
            "max_tokens, overlong, prompts, temperature, top_logprobs",
        ),
        (
            "steps: 5",
            "f.yaml:1:1  steps is not a field of the run config\n"
            "  did you mean 'train.steps'?  allowed: checkpoint, diagnostics, dtype, environment, eval, evals, "
            "hardware, head, model, objective, perturbation, prompt, records, revision, rollout, seed, task, train",
        ),
        (
            "train: {steps: ten}",
            "f.yaml:1:16  train.steps: wanted a whole number, got the text 'ten'",
        ),
        ("train: {steps: 1.5}", "f.yaml:1:16  train.steps: wanted a whole number, got 1.5"),
        ("train: {steps: 0}", "f.yaml:1:16  train.steps: wanted a number > 0, got 0"),
        ("train: {steps: true}", "f.yaml:1:16  train.steps: wanted a number, got true"),
        ("train: {lr: }", "f.yaml:1:12  train.lr: wanted a number, got nothing (null)"),
        ("train: {lr: .inf}", "f.yaml:1:13  train.lr: wanted a finite number, got inf"),
        ("train: 7", "f.yaml:1:8  train: wanted a mapping, got 7"),
        ("train: {betas: [0.9]}", "f.yaml:1:9  train.betas[1] is missing"),
        (
            "train: {betas: [0.9, x]}",
            "f.yaml:1:22  train.betas[1]: wanted a number, got the text 'x'",
        ),
        ("train: {betas: 0.9}", "f.yaml:1:16  train.betas: wanted a list, got 0.9"),
        (
            "dtype: float33",
            "f.yaml:1:8  dtype: wanted one of float32, bfloat16, float16, got the text 'float33'\n"
            "  did you mean 'float32'?",
        ),
        ("model: 3", "f.yaml:1:8  model: wanted text, got 3"),
        (
            "task: {name: additon}",
            "f.yaml:1:14  task.name: wanted one of addition, reasoning_gym, file, math, got the text 'additon'\n"
            "  did you mean 'addition'?",
        ),
        ("task: {name: reasoning_gym}", "f.yaml:1:1  task.dataset is missing"),
        ("task: {digits: 12}", "f.yaml:1:16  task.digits: wanted a number <= 9, got 12"),
        (
            "objective: {advantage: {normalize_std: maybe}}",
            "f.yaml:1:40  objective.advantage.normalize_std: wanted true or false, "
            "got the text 'maybe'",
        ),
        (
            "perturbation: {layers: some}",
            "f.yaml:1:24  perturbation.layers: 'some' names no layers; write all, early, middle, "
            "late, first:k, last:k, middle:k, every:k, a-b (inclusive, 0-based) or a list of "
            "indices >= 0",
        ),
        (
            "objective: {weight: {action: clip, lower: 3}}",
            "f.yaml:1:43  objective.weight.lower 3.0 must be below upper 2.0",
        ),
        (
            "train: {steps: 10, warmup: 10}",
            "f.yaml:1:28  train.warmup 10 is no shorter than the run of train.steps 10, so that no step would have "
            "the full learning rate; lower warmup, or raise steps",
        ),
        (
            "rollout: {filter: {rounds: 2}}",
            "f.yaml:1:28  rollout.filter.rounds does nothing with zero_variance: keep; remove it, or set "
            "zero_variance: refill",
        ),
        (
            "rollout: {filter: {max_prompt: 4090}}",
            "f.yaml:1:1  hardware.micro_batch_tokens 4096 is a hard bound, and a prompt of rollout.filter.max_prompt "
            "4090 with a response of rollout.max_tokens 8 is longer; raise it to 4098",
        ),
        (
            "train: {updates_per_rollout: 3}",
            "f.yaml:1:30  train.updates_per_rollout 3 does not divide rollout.prompts 64 "
            "(512 responses), so mini-batches would differ in size or cut a group; "
            "choose a divisor",
        ),
    ],
)
def test_one_fault_is_one_message(text: str, message: str) -> None:
    assert explained(text) == message


def test_a_validator_s_message_points_at_the_field_that_it_names() -> None:
    message = explained("rollout:\n  prompts: 8\n  top_p: 0.9\n")
    assert message.startswith("f.yaml:3:10  rollout.top_p renormalises over the nucleus, so")


def test_all_faults_come_at_once_in_the_order_of_the_file() -> None:
    message = explained("train: {lr: x}\ndtype: int1\nev: 1\nrollout: {engine: hf, group: 1}\n")
    assert [line.split("  ")[0] for line in message.splitlines() if line.startswith("f.yaml")] == [
        "f.yaml:1:13",
        "f.yaml:2:8",
        "f.yaml:3:1",
        "f.yaml:4:30",
    ]


def test_no_url_and_no_pydantic_wording() -> None:
    message = explained("train: {lr: x, stepz: 1}\ntask: {name: 3}\nrollout: []\n")
    for word in ("pydantic", "http", "Input should", "Extra inputs", "tag"):
        assert word not in message


class _Open(Section):
    value: int | Literal["auto"] = "auto"
    items: tuple[int | dict[str, int], ...] = ()


def test_a_plain_union_gives_one_message_without_branch_names() -> None:
    assert explained("value: x\nitems: [1, y]\n", _Open) == (
        "f.yaml:1:8  value: wanted a whole number or one of auto, got the text 'x'\n"
        "f.yaml:2:12  items[1]: wanted a whole number or a mapping, got the text 'y'"
    )


def test_explain_below_a_root_path() -> None:
    document = parse_yaml("base: {train: {lr: x}}", "f.yaml")
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate(document.data["base"])
    error = explain(caught.value, document, ("base",), model=RunConfig)
    assert str(error) == "f.yaml:1:20  train.lr: wanted a number, got the text 'x'"


@pytest.mark.parametrize(
    "path", ["train.lr", "rollout.weights", "rollout.dtype", "task.params.a.b", "perturbation"]
)
def test_paths_of_any_kind_of_a_section_are_known(path: str) -> None:
    assert check_path(RunConfig, tuple(path.split(".")), "here") is None


def test_an_unknown_path_offers_the_field_elsewhere() -> None:
    assert check_path(RunConfig, ("perturbation", "init"), "here") == Fault(
        "here",
        "perturbation.init is not a field of perturbation",
        "did you mean 'perturbation.sigma.init'?  "
        "allowed: antithetic, distribution, draws, gradient, layers, scale, schedule, sigma, site",
    )
    fault = check_path(RunConfig, ("train", "steps", "x"), "here")
    assert fault == Fault("here", "train.steps.x is not a field of train.steps", "")


def test_leaves_cover_every_branch_of_a_union() -> None:
    found = leaves(RunConfig)
    assert {"rollout.weights", "rollout.kv_cache_dtype", "task.digits", "task.params"} <= found
    assert "rollout" not in found


def test_dotted() -> None:
    assert dotted(("arms", 0, "objective", "ratio")) == "arms[0].objective.ratio"


def test_a_refused_key_gives_its_reason_on_the_command_line_too(tmp_path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("name: a\nquestion: q\narms: [grpo]\nseeds: [0]\n")
    with pytest.raises(ConfigError, match=r"rollout\.top_p renormalises over the nucleus, so"):
        load_ablation(file, ("rollout.top_p=0.9",))
