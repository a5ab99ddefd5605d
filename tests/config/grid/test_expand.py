import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from alpkit.config import Grid, PerturbationConfig, expand, load_ablation
from alpkit.errors import ConfigError


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def grid(_overrides: tuple[str, ...] = (), **content: Any) -> Grid:
    # JSON is YAML, so tests can write the file as data.
    Path("a.yaml").write_text(json.dumps({"name": "a", **content}))
    return expand(load_ablation("a.yaml", _overrides))


def at(grid: Grid, arm: str, path: str) -> Any:
    """Field `path` of the arm's first cell."""
    value: Any = next(cell.config for cell in grid.cells if cell.arm == arm)
    for key in path.split("."):
        value = getattr(value, key)
    return value


def test_seeds_are_the_outermost_loop_and_arms_keep_their_order() -> None:
    made = grid(arms=["gspo", "grpo"], axes={"rollout.lag": [1, 0]}, seeds=[7, 3])
    assert [(c.seed, c.arm) for c in made.cells] == [
        (seed, f"{arm} lag={lag}") for seed in (7, 3) for arm in ("gspo", "grpo") for lag in (1, 0)
    ]
    assert all(c.config.seed == c.seed and c.config.cell_id() == c.cell_id for c in made.cells)
    assert made.arms == ("gspo lag=1", "gspo lag=0", "grpo lag=1", "grpo lag=0")


def test_precedence_of_the_layers() -> None:
    arm = {"preset": "seq-bypass", "objective": {"surrogate": {"epsilon_high": 2}},
           "train": {"lr": 3e-4, "grad_clip": 3}}  # fmt: skip
    made = grid(
        ("train.weight_decay=5", "train.grad_clip=5"),
        base={"train": {"steps": 1, "lr": 1e-4, "grad_clip": 1, "weight_decay": 1}},
        arms=[arm],
        axes={"train.lr": [4e-4], "train.weight_decay": [4]},
    )
    train, surrogate = made.cells[0].config.train, made.cells[0].config.objective.surrogate
    assert train.updates_per_rollout == 16  # default
    assert train.steps == 1  # base
    assert (surrogate.epsilon_low, surrogate.epsilon_high) == (0.5, 2)  # preset, arm
    assert train.lr == 4e-4  # axis
    assert (train.grad_clip, train.weight_decay) == (5, 5)  # --set
    assert made.notes == ("--set fixes train.weight_decay, so it is no axis",)
    assert made.cells[0].axes == {"train.lr": 4e-4}


def test_an_arm_with_a_name_and_no_preset_starts_from_the_defaults() -> None:
    made = grid(arms=[{"name": "mine", "objective": {"aggregate": "seq_mean_token_mean"}}])
    assert at(made, "mine", "objective.aggregate") == "seq_mean_token_mean"
    assert at(made, "mine", "objective.surrogate.epsilon_low") == 0.2


def test_switching_the_engine_keeps_what_both_engines_have() -> None:
    base = {"rollout": {"engine": "hf", "weights": "int4", "prompts": 32}}
    made = grid(base=base, arms=["grpo", {"preset": "grpo", "name": "v", "rollout": {
        "engine": "vllm", "dtype": "float16"}}])  # fmt: skip
    rollout = at(made, "v", "rollout")
    assert (rollout.engine, rollout.prompts, rollout.dtype) == ("vllm", 32, "float16")
    assert at(made, "grpo", "rollout.weights") == "int4"


def test_switching_task_surrogate_and_weight_drops_what_the_new_kind_lacks() -> None:
    made = grid(
        base={"task": {"digits": 2}},
        arms=[
            {"preset": "grpo", "task": {"name": "reasoning_gym", "dataset": "chain_sum"}},
            {"preset": "seq-bypass", "objective": {"surrogate": {"kind": "cispo"}}},
            {"preset": "seq-mis", "objective": {"weight": {"action": "none"}}},
            {"preset": "seq-mis", "name": "truncated",
             "objective": {"weight": {"action": "truncate"}}},
        ],
    )  # fmt: skip
    assert at(made, "grpo", "task.dataset") == "chain_sum"
    surrogate = at(made, "seq-bypass", "objective.surrogate")
    assert (surrogate.kind, surrogate.epsilon_high, surrogate.dual_clip) == ("cispo", 3, None)
    assert at(made, "seq-mis", "objective.weight.action") == "none"
    assert at(made, "truncated", "objective.weight.level") == "product"


def test_a_key_of_the_wrong_kind_in_the_same_layer_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"rollout.weights is not a field of rollout \(vllm\)"):
        grid(arms=["grpo"], base={"rollout": {"engine": "vllm", "weights": "int4"}})


def test_axes_that_an_arm_does_not_use_do_not_vary_it() -> None:
    made = grid(
        arms=["grpo", "token-tis", "seq-alp"],
        axes={"perturbation.layers": ["early", "late"], "objective.weight.upper": [2, 5.0]},
    )
    assert made.arms == (
        "grpo", "token-tis upper=2", "token-tis upper=5",
        "seq-bypass", "seq-alp layers=early", "seq-alp layers=late",
    )  # fmt: skip
    assert [c.axes for c in made.cells] == [
        {}, {"objective.weight.upper": 2}, {"objective.weight.upper": 5.0},
        {}, {"perturbation.layers": "early"}, {"perturbation.layers": "late"},
    ]  # fmt: skip
    assert at(made, "grpo", "perturbation") is None
    assert made.notes == (
        "perturbation.layers has no effect on grpo, token-tis and does not vary it",
        "objective.weight.upper has no effect on grpo, seq-alp and does not vary it",
        "added the arm 'seq-bypass': 'seq-alp layers=early' without its noise, "
        "the sigma = 0 control",
    )


def test_an_axis_of_one_engine_does_not_vary_the_other() -> None:
    axes = {"rollout.weights": ["int4", "int8"], "rollout.engine": ["hf", "vllm"]}
    made = grid(arms=["grpo"], axes=axes)
    assert made.arms == (
        "grpo weights=int4 rollout.engine=hf",
        "grpo rollout.engine=vllm",
        "grpo weights=int8 rollout.engine=hf",
    )


def test_an_axis_over_the_whole_perturbation_reaches_every_arm() -> None:
    made = grid(arms=["seq-bypass"], axes={"perturbation": [None, {"scale": "rms"}]})
    noisy = 'seq-bypass perturbation={"scale":"rms"}'
    assert made.arms == ("seq-bypass perturbation=null", noisy)
    assert at(made, noisy, "perturbation") == PerturbationConfig(scale="rms")
    assert made.controls == {noisy: "seq-bypass perturbation=null"}


def test_an_override_of_the_perturbation_creates_none() -> None:
    made = grid(("perturbation.scale=rms",), arms=["seq-bypass", "seq-alp"])
    assert at(made, "seq-bypass", "perturbation") is None
    assert at(made, "seq-alp", "perturbation.scale") == "rms"
    silent = grid(("perturbation=null",), arms=["seq-bypass", "seq-alp"])
    assert silent.arms == ("seq-bypass",)


def test_zip_varies_together_and_multiplies_the_axes() -> None:
    made = grid(
        arms=["grpo"],
        axes={"rollout.lag": [0, 1]},
        zip={"train.lr": [1e-4, 2e-4], "train.updates_per_rollout": [8, 16]},
    )
    assert [(c.axes["rollout.lag"], c.config.train.lr, c.config.train.updates_per_rollout)
            for c in made.cells] == [
        (0, 1e-4, 8), (0, 2e-4, 16), (1, 1e-4, 8), (1, 2e-4, 16),
    ]  # fmt: skip


def test_exclude_and_include() -> None:
    made = grid(
        arms=["grpo", "gspo"],
        axes={"rollout.lag": [0, 1], "train.lr": [1e-4, 2e-4]},
        exclude=[{"arm": "grpo", "rollout.lag": 1}, {"rollout.lag": 0, "train.lr": 0.0002}],
        include=[{"arm": "grpo", "rollout.lag": 1, "train.lr": 2e-4}, {"arm": "gspo", "rollout.lag": 9}],
    )  # fmt: skip
    assert made.arms == (
        "grpo lag=0 train.lr=0.0001",
        "grpo lag=1 train.lr=0.0002",
        "gspo lag=0 train.lr=0.0001",
        "gspo lag=1 train.lr=0.0001",
        "gspo lag=1 train.lr=0.0002",
        "gspo lag=9",
    )


def test_equal_cells_are_merged_with_a_note() -> None:
    made = grid(
        arms=["grpo", {"preset": "grpo", "name": "plain", "checkpoint": {"every": 5}}],
        axes={"rollout.temperature": [1, 1.0]},
    )
    assert made.arms == ("grpo temperature=1",)
    assert made.notes == (
        "'plain temperature=1' has the same config as 'grpo temperature=1': merged",
    )


def test_two_arms_of_one_name_are_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        grid(
            arms=["grpo", {"preset": "gspo", "name": "grpo lag=0"}],
            include=[{"arm": "grpo", "rollout.lag": 0}],
            axes={"rollout.group": [8]},
            exclude=[{"rollout.group": 8, "arm": "x"}],
        )
    assert "there is no arm 'x'" in str(caught.value)
    with pytest.raises(ConfigError, match="two different arms would be named 'grpo lag=1'"):
        grid(
            arms=["grpo", {"preset": "gspo", "name": "grpo lag=1"}],
            include=[{"arm": "grpo", "rollout.lag": 1}],
        )


def test_a_missing_control_is_added_and_named_after_its_preset() -> None:
    made = grid(arms=["grpo", "seq-alp"], seeds=[0, 1, 2])
    assert made.arms == ("grpo", "seq-bypass", "seq-alp")
    assert made.controls == {"seq-alp": "seq-bypass"}
    assert made.notes == (
        "added the arm 'seq-bypass': 'seq-alp' without its noise, the sigma = 0 control",
    )
    assert made.warnings == ()
    listed = grid(arms=["seq-bypass", "seq-alp"])
    assert {c.cell_id for c in listed.cells} <= {c.cell_id for c in made.cells}


def test_a_control_carries_the_axes_of_its_arm() -> None:
    made = grid(
        arms=["token-alp"], axes={"rollout.lag": [0, 1], "perturbation.scale": ["absolute", "rms"]}
    )
    assert made.controls == {
        f"token-alp lag={lag} scale={scale}": f"token-bypass lag={lag}"
        for lag, scale in itertools.product((0, 1), ("absolute", "rms"))
    }
    assert at(made, "token-bypass lag=1", "rollout.lag") == 1


def test_a_control_that_is_no_preset_is_named_sigma_0() -> None:
    arm = {"preset": "seq-alp", "objective": {"surrogate": {"epsilon_high": 2}}}
    made = grid(arms=["seq-bypass", arm])
    assert made.controls == {"seq-alp": "seq-alp sigma=0"}
    assert at(made, "seq-alp sigma=0", "objective.surrogate.epsilon_high") == 2
    assert at(made, "seq-alp sigma=0", "perturbation") is None


def test_a_taken_name_is_not_given_to_a_control() -> None:
    other = {"preset": "grpo", "name": "seq-bypass"}
    made = grid(arms=[other, "seq-alp"])
    assert made.controls == {"seq-alp": "seq-alp sigma=0"}


@pytest.mark.parametrize(
    "twin",
    [
        {"preset": "seq-bypass", "name": "mine"},
        {"preset": "seq-alp", "name": "mine", "perturbation": None},
        {"preset": "seq-alp", "name": "mine", "perturbation": {"layers": []}},
        {"preset": "seq-alp", "name": "mine", "perturbation": {"sigma": {"init": 0, "learnable": False}}},
    ],
)  # fmt: skip
def test_a_twin_under_any_name_is_the_control(twin: dict[str, Any]) -> None:
    made = grid(arms=["seq-alp", twin])
    assert made.arms == ("seq-alp", "mine")
    assert made.controls == {"seq-alp": "mine"}
    assert made.notes == ()


def test_sigma_0_on_an_axis_is_the_control() -> None:
    arm = {"preset": "seq-alp", "perturbation": {"sigma": {"learnable": False}}}
    made = grid(arms=[arm], axes={"perturbation.sigma.init": [0, 0.02, 0.05]})
    twin = "seq-alp sigma=0"
    assert made.controls == {"seq-alp sigma=0.02": twin, "seq-alp sigma=0.05": twin}
    assert len(made.cells) == 3


def test_ids_depend_on_what_runs_and_on_nothing_else() -> None:
    axes = {"rollout.lag": [0, 1], "perturbation.layers": ["early", "late"], "train.lr": [1e-4]}
    arms = ["grpo", "seq-alp", "token-tis"]
    ids = {c.cell_id for c in grid(arms=arms, axes=axes).cells}
    for keys in itertools.permutations(axes):
        made = grid(arms=arms[::-1], axes={k: axes[k] for k in keys}, question="why")
        assert {c.cell_id for c in made.cells} == ids
    a, b = grid(arms=arms), grid(name="b", arms=arms)
    assert [c.cell_id for c in a.cells] == [c.cell_id for c in b.cells]
    assert a.grid_id != b.grid_id
    assert grid(arms=arms).grid_id == a.grid_id


def test_warnings() -> None:
    made = grid(
        arms=["grpo"],
        base={"train": {"steps": 4}},
        axes={"perturbation.scale": ["rms"], "rollout.lag": [0]},
        exclude=[{"rollout.lag": 3}],
        seeds=[0, 1],
    )
    assert made.warnings == (
        "no arm uses perturbation.scale, so varying it changes nothing",
        'exclude {"rollout.lag":3} matches nothing',
        "2 seeds: the report gives no verdict on differences below 3",
        "one arm: there is nothing to compare it with",
        "eval.every is above train.steps, so only step 0 is evaluated: 'grpo lag=0'",
    )


def test_the_manifest_is_json() -> None:
    made = grid(
        arms=["seq-alp"], axes={"perturbation.layers": [[0, 1]]}, seeds=[4], question="why?"
    )
    manifest = json.loads(json.dumps(made.manifest()))
    arm, control = "seq-alp layers=[0,1]", "seq-bypass"
    assert manifest == {
        "grid": "a",
        "grid_id": made.grid_id,
        "question": "why?",
        "cells": [
            {"cell_id": made.cells[0].cell_id, "arm": control, "seed": 4, "axes": {}},
            {"cell_id": made.cells[1].cell_id, "arm": arm, "seed": 4,
             "axes": {"perturbation.layers": [0, 1]}},
        ],
        "controls": {arm: control},
        "reference": "",
        "tests": [],
        "metrics": ["default"],
        "notes": [f"added the arm '{control}': '{arm}' without its noise, the sigma = 0 control"],
        "warnings": ["1 seed: the report gives no verdict on differences below 3"],
    }  # fmt: skip
