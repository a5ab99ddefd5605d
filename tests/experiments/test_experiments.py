import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alpkit.config import PerturbationConfig, RunConfig, expand, load_ablation
from alpkit.launch.preflight import check_cells
from alpkit.metrics import EVALUATIONS, WINDOW
from alpkit.runs.steps import CellTracker
from alpkit.trainer import train_cell
from alpkit.trainer.noise_probe import probe_noise

ROOT = Path(__file__).parents[2]
FILES = [p for p in sorted((ROOT / "experiments").rglob("*.yaml")) if p.parent.name != "methods"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_committed_grid_expands_and_says_what_it_asks(path: Path) -> None:
    grid = expand(load_ablation(path))
    assert grid.cells
    assert grid.question.endswith("?")
    assert grid.name == path.stem
    header = path.read_text().split("name:")[0]
    for word in ("# Question:", "# Cost:", "# Look for:"):
        assert word in header


def test_quickstart() -> None:
    grid = expand(load_ablation(ROOT / "experiments/quickstart.yaml"))
    assert grid.arms == ("grpo", "gspo", "token-tis", "seq-mis", "seq-bypass", "seq-alp")
    assert {cell.seed for cell in grid.cells} == {0, 1, 2}
    assert grid.controls == {"seq-alp": "seq-bypass"}
    assert grid.notes == grid.warnings == ()
    # Three seeds bear one comparison.
    assert [c[:2] for c in grid.comparisons if c.tested] == [("seq-alp", "seq-bypass")]
    assert (grid.launch.launcher, grid.launch.jobs) == ("processes", 2)


@pytest.mark.parametrize("name", ["quickstart", "ablation", "layers", "sites"])
def test_a_score_is_a_mean_of_evaluations_of_the_last_steps(name: str) -> None:
    config = expand(load_ablation(ROOT / f"experiments/{name}.yaml")).cells[0].config
    steps = range(config.eval.every, config.train.steps + 1, config.eval.every)
    recent = [step for step in steps if step > config.train.steps - WINDOW]
    assert len(recent) >= (EVALUATIONS if name == "quickstart" else 2)


PUBLISHED = PerturbationConfig()
"""Absolute, learned, at every layer's input: what the name of an ALP preset stands for."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_published_name_is_the_published_method(path: Path) -> None:
    """Only the size of sigma may be the model's own; what deviates has another name."""
    for cell in expand(load_ablation(path)).cells:
        noise = cell.config.perturbation
        if noise is None:
            continue
        sigma = noise.sigma.model_copy(update={"init": PUBLISHED.sigma.init})
        published = noise.model_copy(update={"sigma": sigma}) == PUBLISHED
        name = cell.arm.split(" ")[0]
        assert (name in ("seq-alp", "token-alp")) == published or path.parent.name == "paper"


@pytest.mark.parametrize("name", ["ablation", "layers", "sites", "quickstart"])
def test_no_committed_grid_has_noise_that_is_lost_or_rules(name: str) -> None:
    """What `alpkit plan --probe` says: no caution, as the headers promise; the quickest arms of each here."""
    pytest.importorskip("torch")
    grid = expand(load_ablation(ROOT / f"experiments/{name}.yaml"))
    first = {cell.arm: cell.config for cell in reversed(grid.cells)}
    noisy = {
        arm: first[arm]
        for arm in grid.controls
        if first[arm].perturbation.sigma.init is not None  # type: ignore[union-attr]
    }
    assert noisy
    for arm, config in noisy.items():
        assert (size := probe_noise(config)) is not None
        assert list(size.cautions()) == [], arm
    if name != "quickstart":
        header = (ROOT / f"experiments/{name}.yaml").read_text()
        assert "# Cautions of `alpkit plan --probe`: none.\n" in header


def test_the_readmes_example_works_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expands, is refused by nothing, has no noise of a wrong size, and trains."""
    text = (ROOT / "README.md").read_text()
    example = next(block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(example)
    grid = expand(load_ablation(Path("mine.yaml")))
    check_cells(grid.cells)
    assert grid.warnings == ()
    for arm in grid.controls:
        cell = next(cell for cell in grid.cells if cell.arm == arm)
        size = probe_noise(cell.config)
        assert size is not None
        assert list(size.cautions()) == []
    short = {"train": {"steps": 1, "updates_per_rollout": 16}, "eval": {"items": 16, "k": 1}}
    config = RunConfig.model_validate(cell.config.model_dump() | short)
    train_cell(config, tmp_path / "cell", CellTracker(tmp_path / "cell"))
    last = [json.loads(line) for line in Path("cell/metrics.jsonl").read_text().splitlines()][-1]
    assert last["reward/mean"] > 0.1  # a sum of three digits is something that this model can write


def test_config_imports_nothing_heavy() -> None:
    code = (
        "import sys, alpkit.config as c; "
        "c.expand(c.load_ablation(sys.argv[1])); "
        "print([m for m in ('torch', 'transformers', 'mlflow', 'pandas', 'numpy', 'vllm') "
        "if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(ROOT / "experiments/quickstart.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
