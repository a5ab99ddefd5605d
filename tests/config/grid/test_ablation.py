from pathlib import Path

import pytest

from alpkit.config import PRESETS, Ablation, expand, load_ablation
from alpkit.errors import ConfigError

NAMES = "presets: " + ", ".join(sorted(PRESETS))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str, *overrides: str) -> Ablation:
    Path("a.yaml").write_text(text)
    return load_ablation("a.yaml", overrides)


def fails(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        expand(load(text, *overrides))
    return str(caught.value)


def test_defaults() -> None:
    config = load("name: a\narms: [grpo]\n").config
    assert config.seeds == (0,)
    assert (config.launch.launcher, config.launch.jobs) == ("processes", "auto")
    assert (config.base, config.axes, config.zip, config.include, config.exclude) == (
        {}, {}, {}, (), ()
    )  # fmt: skip


def test_a_key_whose_content_is_commented_out_is_absent() -> None:
    config = load("name: a\narms: [grpo]\nbase:\naxes:\n  # train.lr: [1]\n").config
    assert (config.base, config.axes) == ({}, {})


HEAD = "name: a\narms: [grpo]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms: [grpo]", "a.yaml:1:1  name is missing"),
        (
            "name: My Grid\narms: [grpo]",
            "a.yaml:1:7  name: 'My Grid' cannot name a folder; use a-z, 0-9, '.', '_' and '-', "
            "and start with a letter or digit",
        ),
        (
            "name: ..\narms: [grpo]",
            "a.yaml:1:7  name: '..' cannot name a folder; use a-z, 0-9, '.', '_' and '-', "
            "and start with a letter or digit",
        ),
        ("name: 7\narms: [grpo]", "a.yaml:1:7  name: wanted text, got 7"),
        ("name: a", "a.yaml:1:1  arms is missing"),
        ("name: a\narms: []", "a.yaml:2:1  arms: wanted at least 1 item(s), got 0"),
        ("name: a\narms: grpo", "a.yaml:2:7  arms: wanted a list, got the text 'grpo'"),
        ("name: a\narms: [3]", "a.yaml:2:8  arms[0]: wanted text or a mapping, got 3"),
        (
            HEAD + "sedes: [1]",
            "a.yaml:3:1  sedes is not a field of an ablation file\n  did you mean 'seeds'?  "
            "allowed: arms, axes, base, exclude, include, launch, methods, name, question, reference, seeds, "
            "tests, tracking, zip",
        ),
        (HEAD + "seeds: 3", "a.yaml:3:8  seeds: wanted a list, got 3"),
        (HEAD + "seeds: []", "a.yaml:3:1  seeds: wanted at least 1 item(s), got 0"),
        (HEAD + "seeds: [0, -1]", "a.yaml:3:12  seeds[1]: wanted a number >= 0, got -1"),
        (
            HEAD + "seeds: [1, 2, 1]",
            "a.yaml:3:15  seed 1 is listed twice\n  remove one of them",
        ),
        (
            HEAD + "launch: {launcher: slurm}",
            "a.yaml:3:20  launch.launcher: wanted one of inline, processes, ray, got the text 'slurm'",
        ),
        (
            HEAD + "launch: {jobs: 0}",
            "a.yaml:3:16  launch.jobs: wanted a whole number >= 1 or auto, got 0",
        ),
        (
            HEAD + "base:\n  objective: {aggregate: token_mean}",
            "a.yaml:4:3  objective is not allowed in base\n"
            "  it is what arms differ in; put it into an arm",
        ),
        (
            HEAD + "base: {perturbation: {}, seed: 3}",
            "a.yaml:3:8  perturbation is not allowed in base\n"
            "  it is what arms differ in; put it into an arm\n"
            "a.yaml:3:26  seed is not allowed in base\n  cells take it from seeds",
        ),
        (
            HEAD + "base:\n  train:\n    stepz: 3",
            "a.yaml:5:5  train.stepz is not a field of train\n  did you mean 'steps'?  allowed: "
            "betas, grad_clip, lr, optimizer, schedule, steps, updates_per_rollout, warmup, weight_decay",
        ),
        (
            "name: a\narms: [grpo, seq-apl]",
            f"a.yaml:2:14  'seq-apl' is not a preset\n  did you mean 'seq-alp'?  {NAMES}",
        ),
        (
            "name: a\narms:\n  - {preset: zzz, name: x}",
            f"a.yaml:3:14  'zzz' is not a preset\n  {NAMES}",
        ),
        (
            "name: a\narms: [grpo, {preset: grpo, dtype: bfloat16}]",
            "a.yaml:2:14  arm 'grpo' is listed twice (first at a.yaml:2:8)\n"
            "  give one of them a name of its own: {preset: …, name: another}",
        ),
        (
            "name: a\narms: [{dtype: float32}]",
            "a.yaml:2:8  an arm needs a preset: or a name:",
        ),
        (
            "name: a\narms: [{name: [x]}]",
            "a.yaml:2:9  an arm's name must be one line of text, got ['x']",
        ),
        (
            "name: a\narms: [{preset: grpo, objectiv: {}}]",
            "a.yaml:2:23  objectiv is not a field of an arm\n  did you mean 'objective'?  allowed: "
            "checkpoint, diagnostics, dtype, environment, eval, evals, hardware, head, model, name, objective, "
            "perturbation, preset, prompt, records, revision, rollout, task, train",
        ),
        (
            "name: a\narms: [{preset: grpo, seed: 3}]",
            "a.yaml:2:23  seed is not allowed in an arm\n  cells take it from seeds",
        ),
        (
            HEAD + "axes:\n  perturbation.sigmaa: [1]",
            "a.yaml:4:3  perturbation.sigmaa is not a field of perturbation\n"
            "  did you mean 'sigma'?  allowed: antithetic, distribution, draws, gradient, layers, scale, schedule, "
            "sigma, site",
        ),
        (
            HEAD + "axes: {seed: [1, 2]}",
            "a.yaml:3:8  seed cannot be varied here\n  cells take it from seeds",
        ),
        (HEAD + "axes: {train.lr: 3}", "a.yaml:3:18  axes.train.lr: wanted a list, got 3"),
        (HEAD + "axes: {train.lr: []}", "a.yaml:3:8  axes.train.lr has no values"),
        (
            HEAD + "zip: {train.lr: [1, 2], train.steps: [3]}",
            "a.yaml:3:1  the lists of zip must have one length, got train.lr: 2, train.steps: 1",
        ),
        (
            HEAD + "axes: {train.lr: [1]}\nzip: {train.lr: [1]}",
            "a.yaml:4:7  train.lr is in axes and in zip\n  keep one of them",
        ),
        (
            HEAD + "include:\n  - {arm: gropo, train.lr: 1}",
            "a.yaml:4:11  include: there is no arm 'gropo'\n  did you mean 'grpo'?  arms: grpo",
        ),
        (
            HEAD + "include: [{train.lr: 1}]",
            "a.yaml:3:11  include: an entry needs an arm:",
        ),
        (
            HEAD + "axes: {train.lr: [1]}\nexclude: [{train.lrr: 1}]",
            "a.yaml:4:12  exclude: no axis varies train.lrr\n"
            "  did you mean 'train.lr'?  axes: train.lr",
        ),
        (
            HEAD + "axes: {train.lr: [1]}\nexclude: [{train.lr: 1}]",
            "a.yaml:4:1  exclude leaves no cell",
        ),
    ],
)
def test_a_fault_of_the_file_is_named_where_it_stands(text: str, message: str) -> None:
    assert fails(text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: a\narms:\n  - {preset: seq-alp, perturbation: {scale: rmss}}",
            "a.yaml:3:45  perturbation.scale: wanted one of absolute, rms, got the text 'rmss'\n"
            "  did you mean 'rms'?",
        ),
        (
            "name: a\narms: [grpo, {preset: token-tis, perturbation: {}}]",
            "a.yaml:2:14  objective.weight.action: a perturbed ratio and a separate weight correct the "
            "same drift twice (ALP replaces the two-factor correction); set it to none, or drop the "
            "perturbation",
        ),
        (
            HEAD + "axes:\n  train.lr: [1.0e-4, fast, -1]",
            "a.yaml:4:22  train.lr: wanted a number, got the text 'fast'\n"
            "  in the arm 'grpo train.lr=fast'\n"
            "a.yaml:4:28  train.lr: wanted a number >= 0.0, got -1\n"
            "  in the arm 'grpo train.lr=-1'",
        ),
        (
            "name: a\narms: [grpo, gspo]\nbase: {rollout: {top_k: 5}}",
            "a.yaml:3:25  rollout.top_k renormalises over k tokens, so the returned log-prob is "
            "not the trainer's quantity and every ratio is fabricated; remove it (trl#6789 "
            "measured mean ratio = kept probability mass)",
        ),
        (
            HEAD + "include: [{arm: grpo, train.betas: [0.9, x]}]",
            "a.yaml:3:42  train.betas[1]: wanted a number, got the text 'x'",
        ),
        (
            "name: a\narms: [{preset: grpo, name: x}, {preset: seq-alp, name: x y}]\n"
            "include: [{arm: x, perturbation.layers: early}]\n"
            "axes: {perturbation.layers: [earlier]}",
            "a.yaml:4:30  perturbation.layers: 'earlier' names no layers; write all, early, "
            "middle, late, first:k, last:k, middle:k, every:k, a-b (inclusive, 0-based) or a list "
            "of indices >= 0\n  in the arm 'x y layers=earlier'",
        ),
    ],
)
def test_a_fault_of_a_cell_is_named_where_its_value_stands(text: str, message: str) -> None:
    assert fails(text) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.stepz=1",
            "--set train.stepz=1  train.stepz is not a field of train\n  did you mean 'steps'?  "
            "allowed: betas, grad_clip, lr, optimizer, schedule, steps, updates_per_rollout, warmup, weight_decay",
        ),
        ("train.steps", "--set train.steps  wanted field=value\n  for example --set train.steps=5"),
        ("=5", "--set =5  wanted field=value\n  for example --set train.steps=5"),
        ("seed=1", "--set seed=1  seed cannot be varied here\n  cells take it from seeds"),
        (
            "train.betas=[1",
            "--set train.betas=[1  not valid YAML: expected ',' or ']', but got '<stream end>' "
            "(while parsing a flow sequence)",
        ),
        (
            "train.steps=ten",
            "--set train.steps=ten  train.steps: wanted a whole number, got the text 'ten'\n"
            "  in the arm 'grpo'",
        ),
        (
            "train={steps: 0}",
            "--set train={steps: 0}  train.steps: wanted a number > 0, got 0\n  in the arm 'grpo'",
        ),
    ],
)
def test_a_bad_override_is_named(override: str, message: str) -> None:
    assert fails(HEAD, override) == message


def test_faults_of_overrides_and_of_the_file_come_together() -> None:
    message = fails("name: a\narms: [gropo]\nbase: {train: {lr: x}}\nseedz: 1\n", "foo")
    places = [line.split("  ")[0] for line in message.splitlines() if not line.startswith(" ")]
    assert places == ["--set foo", "a.yaml:2:8", "a.yaml:3:20", "a.yaml:4:1"]


def test_the_error_survives_a_process_border() -> None:
    import pickle

    Path("a.yaml").write_text("name: a\n")
    with pytest.raises(ConfigError) as caught:
        load_ablation("a.yaml")
    assert str(pickle.loads(pickle.dumps(caught.value))) == "a.yaml:1:1  arms is missing"
