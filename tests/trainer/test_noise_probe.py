"""`alpkit plan --probe`: what it measures, and what it says on the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alpkit.cli import looking
from alpkit.config import PRESETS, RunConfig
from alpkit.errors import ConfigError
from alpkit.trainer.noise_probe import probe_noise


def seq_alp(sigma, *, rollout=None, **noise):
    settings = PRESETS["seq-alp"].settings | {
        "rollout": rollout or {"weights": "int4"},
        "perturbation": {"sigma": sigma, **noise},
    }
    return RunConfig.model_validate(settings)


def test_the_plain_preset_on_the_tiny_model_is_another_policy():
    """1.6 to 1.9 nats a token, by the draw: far above 1."""
    size = probe_noise(seq_alp({"init": 0.02}))
    assert 1.3 < size.perturbation < 2.2
    assert 0.10 < size.ratio < 0.20  # int4 rounding alone
    assert list(size.to_rms) == ["layer 00", "layer 01", "layer 02", "layer 03"]
    (text,) = size.cautions()
    assert text.startswith("another policy")


def test_a_matched_sigma_is_matched_before_it_is_measured():
    """The probe's responses are the sampler's, the calibration's the trainer's: equal within a quarter."""
    size = probe_noise(seq_alp({"target_ratio_std": 0.1}, site="logits"))
    assert size.perturbation == pytest.approx(0.1, rel=0.25)
    assert list(size.to_rms) == ["site"]
    assert not list(size.cautions())


def test_over_old_the_ratio_has_no_spread_before_training():
    config = seq_alp({"init": 1e-4})
    objective = config.objective.model_copy(
        update={"ratio": config.objective.ratio.model_copy(update={"denominator": "old"})}
    )
    size = probe_noise(config.model_copy(update={"objective": objective}))
    assert size.share is None
    assert not list(size.cautions())
    (text,) = probe_noise(config).cautions()
    assert text.startswith("nearly its control")


def test_without_noise_there_is_nothing_to_measure():
    assert probe_noise(RunConfig()) is None


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arms = [
        {"preset": "seq-alp", "name": "lost", "perturbation": {"sigma": {"init": 1e-4}}},
        {"preset": "seq-alp", "name": "fine", "perturbation": {"sigma": {"init": 0.004}}},
    ]
    data = {"name": "g", "base": {"rollout": {"weights": "int4"}}, "arms": arms, "seeds": [0, 1, 2]}
    Path("g.yaml").write_text(yaml.safe_dump(data))
    return tmp_path


def test_plan_probe_prints_sizes_and_cautions_and_creates_nothing(grid, capsys):
    looking.plan(Path("g.yaml"), [], full=False, probe=True, as_json=False)
    told = capsys.readouterr()
    assert "noise / rms of the state" in told.out
    assert [line for line in told.err.splitlines() if line.startswith("caution: ")] == [
        line for line in told.err.splitlines() if "'lost': nearly its control" in line
    ]
    looking.plan(Path("g.yaml"), [], full=False, probe=True, as_json=True)
    lost, fine = json.loads(capsys.readouterr().out)["probe"]
    assert (lost["arm"], len(lost["cautions"]), fine["cautions"]) == ("lost", 1, [])
    assert lost["perturbation_std"] < 0.05 * lost["ratio_std"]
    assert [path.name for path in grid.iterdir()] == ["g.yaml"]


def test_plan_probe_refuses_what_a_run_would_refuse(grid):
    sets = ["task.name=reasoning_gym", "task.dataset=chain_sum"]
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ConfigError, match="cannot hold the prompt"):
        looking.plan(Path("g.yaml"), sets, full=False, probe=True, as_json=False)


def test_plan_without_probe_imports_no_torch(grid):
    code = (
        "import sys; sys.argv = ['alpkit', 'plan', 'g.yaml']\n"
        "from alpkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write('heavy: ' + repr({'torch', 'transformers', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.endswith("heavy: set()"), done.stderr
