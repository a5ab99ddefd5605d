"""Which configs are one cell: equal ids exactly for equal configs, whatever fields a later version adds."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpkit.config import RunConfig
from alpkit.config import identity as identity_module
from alpkit.config.identity import differences
from alpkit.config.perturbation import PerturbationConfig, SigmaConfig
from alpkit.config.run import HfRolloutConfig, TrainConfig, VllmRolloutConfig


def run(**fields: Any) -> RunConfig:
    return RunConfig.model_validate(fields)


VLLM = {"engine": "vllm"}
GYM = {"name": "reasoning_gym", "dataset": "chain_sum"}
RULE = {"statistic": "k3", "upper": 0.1}


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({}, {}),
        ({"seed": 0, "train": {"steps": 60}, "rollout": {"engine": "hf"}}, {}),
        ({"checkpoint": {"every": 1}}, {}),
        ({"hardware": {"micro_batch_tokens": 99, "checkpoint_layers": True}}, {}),
        ({"seed": 4, "train": {"steps": 5}}, {"seed": 4, "train": {"steps": 5}}),
        ({"rollout": VLLM}, {"rollout": {"engine": "vllm"}}),
        ({"rollout": {**VLLM, "lag": 1}}, {"rollout": {"engine": "vllm", "lag": 1}}),
        ({"rollout": {"lag": 1}}, {"rollout": {"lag": 1}}),
        ({"task": GYM}, {"task": GYM}),
        ({"task": {**GYM, "params": {"a": [1]}}}, {"task": {**GYM, "params": {"a": [1]}}}),
        ({"perturbation": {}}, {"perturbation": {}}),
        ({"perturbation": {"layers": [1, 0]}}, {"perturbation": {"layers": [0, 1]}}),
        ({"perturbation": {"layers": []}}, {}),
        (
            {"perturbation": {"sigma": {"target_ratio_std": 0.1}}},
            {"perturbation": {"sigma": {"init": None, "target_ratio_std": 0.1, "learnable": False}}},
        ),
        ({"objective": {"reject": [RULE, RULE]}}, {"objective": {"reject": [RULE, RULE]}}),
        (
            {"objective": {"reject": [{"statistic": "ratio", "lower": 0.5, "when": "always"}]}},
            {"objective": {"reject": [{"statistic": "ratio", "lower": 0.5}]}},
        ),
    ],
)  # fmt: skip
def test_identity_holds_what_differs_from_the_defaults(
    config: dict[str, Any], fields: dict[str, Any]
) -> None:
    made = run(**config)
    # JSON: what is hashed has no tuples.
    assert json.loads(json.dumps(made.identity())) == {
        "defaults": identity_module.DEFAULTS_VERSION,
        "fields": fields,
    }


def test_ids_stay_what_they_are() -> None:
    """Cells on disk are found by these: they may change with DEFAULTS_VERSION alone."""
    assert identity_module.DEFAULTS_VERSION == 2
    assert run().cell_id() == "92242f1f33"
    assert run(seed=1, perturbation={"layers": "early"}).cell_id() == "60e6c1e992"
    assert run(rollout=VLLM, objective={"reject": [RULE]}).cell_id() == "c3ec8dad42"


def test_only_a_loss_that_depends_on_the_cut_makes_the_budget_part_of_the_cell() -> None:
    cut = {"objective": {"aggregate": "token_mean_per_micro_batch"}}
    assert run(hardware={"micro_batch_tokens": 64}).cell_id() == run().cell_id()
    assert run(**cut, hardware={"micro_batch_tokens": 64}).cell_id() != run(**cut).cell_id()
    assert run(**cut, hardware={"micro_batch_tokens": 4096}).cell_id() == run(**cut).cell_id()
    assert run(**cut, hardware={"head_chunk": 64}).cell_id() == run(**cut).cell_id()


class _Train(TrainConfig):
    added: int = 3
    """A field of a later version."""


class _Sigma(SigmaConfig):
    added: str | None = None
    """A field of a later version."""


class _Noise(PerturbationConfig):
    sigma: SigmaConfig = _Sigma()


class _Vllm(VllmRolloutConfig):
    added: tuple[float, float] = (0.0, 1.0)
    """A field of a later version."""


class _Later(RunConfig):
    """The run config of a later version: new fields in sections, in a branch of a union and at the top."""

    train: TrainConfig = _Train()
    rollout: HfRolloutConfig | _Vllm = HfRolloutConfig()  # type: ignore[assignment]
    perturbation: _Noise | None = None
    added: bool = False


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seed": 3, "train": {"steps": 5}},
        {"rollout": {**VLLM, "dtype": "float32"}},
        {"perturbation": {}},
        {"perturbation": {"sigma": {"init": 0.5}, "draws": 2}},
    ],
)
def test_a_new_field_changes_no_id(fields: dict[str, Any]) -> None:
    later = _Later.model_validate(fields)
    if "train" in fields:
        later = later.model_copy(update={"train": _Train(**fields["train"])})
    if "sigma" in fields.get("perturbation", {}):
        sigma = _Sigma(**fields["perturbation"]["sigma"])
        later = later.model_copy(
            update={"perturbation": later.perturbation.model_copy(update={"sigma": sigma})}  # type: ignore[union-attr]
        )
    assert "added" in later.model_dump()
    assert later.cell_id() == run(**fields).cell_id()
    assert later.model_copy(update={"added": True}).cell_id() != later.cell_id()


def test_a_changed_default_changes_ids_through_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = run(seed=1).cell_id()
    monkeypatch.setattr(identity_module, "DEFAULTS_VERSION", 3)
    assert run(seed=1).cell_id() != before


def test_another_class_keeps_the_tag_that_names_it() -> None:
    hf = HfRolloutConfig(lag=1)
    assert differences(hf, HfRolloutConfig()) == {"lag": 1}
    # Were vllm the default one day, hf would have to be told from it.
    assert differences(hf) == {"engine": "hf", "lag": 1}


EDITS: dict[str, list[Any]] = {
    "seed": [0, 1],
    "revision": [None, "main"],
    "checkpoint": [{}, {"every": 3}],
    "train": [
        {}, {"lr": 2e-5}, {"lr": 2e-4}, {"weight_decay": 0}, {"weight_decay": -0.0},
        {"optimizer": "adamw"}, {"optimizer": "adamw_8bit"}, {"schedule": "constant"}, {"schedule": "linear"},
        {"warmup": 0}, {"warmup": 2},
    ],
    "rollout": [
        {}, {"engine": "hf"}, {"weights": "float32"}, {"lag": 1},
        VLLM, {**VLLM, "dtype": "bfloat16"}, {**VLLM, "lag": 1}, {**VLLM, "overlong": "mask"},
        {"overlong": "keep"}, {"overlong": "mask"}, {"filter": {}}, {"filter": {"zero_variance": "drop"}},
        {"filter": {"zero_variance": "refill", "rounds": 4}}, {"filter": {"max_prompt": 64}},
    ],
    "task": [
        {}, {"digits": 3}, {"digits": 2}, GYM, {**GYM, "seed": 0}, {**GYM, "params": {}},
        {**GYM, "params": {"n": 1}}, {**GYM, "params": {"n": 1.0}}, {**GYM, "params": {"n": True}},
    ],
    "objective": [
        {}, {"reject": []}, {"reject": [RULE]}, {"reject": [{**RULE, "of": "mismatch"}]},
        {"reject": [RULE, RULE]}, {"reject": [{**RULE, "of": "bypass"}]}, {"weight": {"action": "mask"}},
        {"weight": {"action": "none", "upper": 9}}, {"log_ratio_clamp": [-20, 20]}, {"log_ratio_clamp": [-20, 10]},
        {"entropy_bonus": 0}, {"entropy_bonus": 0.01},
    ],
    "perturbation": [
        None, {"layers": []}, {"sigma": {"init": 0, "learnable": False}}, {}, {"layers": "all"},
        {"schedule": "constant"}, {"sigma": {"learnable": False}}, {"sigma": {"learnable": False, "lr": 0.5}},
    ],
}  # fmt: skip


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    keys = draw(st.lists(st.sampled_from(sorted(EDITS)), unique=True, max_size=3))
    fields = {key: draw(st.sampled_from(EDITS[key])) for key in keys}
    if fields.get("perturbation") is not None and "weight" in fields.get("objective", {}):
        fields.pop("objective")  # a weight beside noise is refused
    return run(**fields)


def resolved(config: RunConfig) -> str:
    """The whole config as text: what the stored config.yaml says, but for the checkpoints."""
    return json.dumps(
        config.model_dump(mode="json", exclude={"checkpoint", "hardware"}), sort_keys=True
    )


@settings(max_examples=400, deadline=None)
@given(configs(), configs())
def test_ids_are_equal_exactly_for_equal_configs(a: RunConfig, b: RunConfig) -> None:
    assert (a.cell_id() == b.cell_id()) == (resolved(a) == resolved(b))


@settings(max_examples=100, deadline=None)
@given(configs())
def test_a_config_that_went_through_its_own_dump_is_the_same_cell(config: RunConfig) -> None:
    # A default of the wrong type (0 for 0.0) would be another cell after reading it back.
    assert run(**config.model_dump(mode="json")).cell_id() == config.cell_id()


def test_every_pair_of_single_edits_is_told_apart() -> None:
    made = [run(**{key: value}) for key, values in EDITS.items() for value in values]
    ids, texts = [c.cell_id() for c in made], [resolved(c) for c in made]
    assert len(set(ids)) == len(set(texts)) == len(set(zip(ids, texts, strict=True)))
    assert 15 < len(set(ids)) < len(made)
