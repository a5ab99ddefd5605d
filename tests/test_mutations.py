"""Mutated files: a plan, a repair or a located error, never a traceback, and never slowly.

The default suite tries a few; `make test-slow` 1,000 ablation files and 300 state files.
"""

import random
import resource
import shutil
import time
import warnings
from pathlib import Path

import pytest
from torch import nn

from alpkit import analysis
from alpkit.config import expand, load_ablation
from alpkit.errors import AlpkitError
from alpkit.launch import Options, run_grid, states
from alpkit.runs.checkpoint import load_newest, save_checkpoint
from alpkit.runs.find import resolve
from alpkit.runs.folder import RunFolder
from alpkit.runs.records import scan
from alpkit.runs.states import read_grid
from alpkit.tracking import prepare_store
from tests.support.mutations import mutated
from tests.support.synthetic_grid import write_grid

ROOT = Path(__file__).parents[1]
SECONDS = 2.0
MEGABYTES = 500


def tried(what, seconds=SECONDS):
    """Do `what`; whatever it raises must be ours and located, and it must not take long."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    refusal = None
    try:
        what()
    except AlpkitError as error:
        refusal = error
    said = "" if refusal is None else str(refusal)
    # Several faults each have their place in the text.
    assert refusal is None or refusal.where or ":" in said
    assert len(said) < 20_000
    assert time.process_time() - started < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES
    return said


def ablations(folder, seed, count):
    files = sorted((ROOT / "experiments").rglob("*.yaml"))
    texts = [path.read_bytes() for path in files if path.parent.name != "methods"]
    rng = random.Random(seed)
    path = folder / "grid.yaml"
    outcomes = []
    for _ in range(count):
        path.write_bytes(mutated(rng.choice(texts), rng))
        outcomes.append(tried(lambda: expand(load_ablation(path))))
    return outcomes


def test_mutated_ablation_files_are_plans_or_located_errors(tmp_path):
    outcomes = ablations(tmp_path, seed=0, count=60)
    assert 5 < sum(not said for said in outcomes) < 55


@pytest.mark.slow
def test_a_thousand_mutated_ablation_files(tmp_path):
    outcomes = ablations(tmp_path, seed=1, count=1000)
    assert 100 < sum(not said for said in outcomes) < 900


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A grid whose files are to be mutated, each once whole."""
    root = tmp_path_factory.mktemp("sound")
    folder = write_grid(root, name="small", arms=("grpo",), seeds=(0, 1), steps=6)
    save_checkpoint(RunFolder(folder / "0000abcdef").checkpoints, 2, nn.Linear(3, 2), {}, keep=2)
    save_checkpoint(RunFolder(folder / "0000abcdef").checkpoints, 4, nn.Linear(3, 2), {}, keep=2)
    return root


def looked_at(root):
    """What people do with a folder: show it, plan on it, read and report it, resume from it."""
    folder = root / "runs" / "small"
    cell = folder / "0000abcdef"
    tried(lambda: read_grid(resolve("small", root).folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tried(lambda: analysis.analyze("small", root=root), seconds=10.0)
    scan(cell)
    load_newest(RunFolder(cell).checkpoints, nn.Linear(3, 2), proved=9, gap="")


def mutate_states(sound, tmp_path, seed, count):
    rng = random.Random(seed)
    for number in range(count):
        root = tmp_path / str(number)
        shutil.copytree(sound, root)
        files = sorted(
            path
            for path in (root / "runs").rglob("*")
            if path.is_file() and "0001abcdef" not in path.parts
        )
        path = rng.choice(files)
        path.write_bytes(mutated(path.read_bytes(), rng))
        try:
            looked_at(root)
        except Exception as error:
            raise AssertionError(f"{path.relative_to(root)}, seed {seed}, {number}") from error
        shutil.rmtree(root)


def test_mutated_state_files_are_read_around_or_named(sound, tmp_path, monkeypatch):
    monkeypatch.setattr("alpkit.analysis.report.compose.FIGURES", [])
    mutate_states(sound, tmp_path, seed=0, count=10)


@pytest.mark.slow
def test_three_hundred_mutated_state_files(sound, tmp_path, monkeypatch):
    monkeypatch.setattr("alpkit.analysis.report.compose.FIGURES", [])
    mutate_states(sound, tmp_path, seed=1, count=300)


def rerun(workplace, seed, count):
    """A grid whose states, or store, are mutated before the same command is given again."""
    path = workplace / "grid.yaml"
    path.write_text("name: x\nbase: {train: {steps: 4}}\narms: [{name: a, preset: grpo}]\n")
    grid = expand(load_ablation(path))
    options = Options(
        root=workplace, launcher="inline", trainer="tests.support.fake_trainer:train_cell"
    )
    run_grid(grid, options)
    kept = workplace.parent / "kept"
    shutil.copytree(workplace / "runs", kept)
    rng = random.Random(seed)
    for number in range(count):
        shutil.rmtree(workplace / "runs")
        shutil.copytree(kept, workplace / "runs")
        names = ["grid.json", "cell.json", "metrics.jsonl", "config.yaml"]
        victim = rng.choice([*[next((workplace / "runs").rglob(n)) for n in names]])
        victim.write_bytes(mutated(victim.read_bytes(), rng))
        try:
            tried(lambda: states(grid, workplace))
            assert tried(lambda: run_grid(grid, options), seconds=10.0) == ""
            assert read_grid(workplace / "runs" / "x").cells[0].state == "finished"
        except Exception as error:
            raise AssertionError(f"{victim.name}, seed {seed}, {number}") from error


def test_a_grid_with_a_mutated_state_runs_again(workplace):
    (workplace / "fixed").touch()
    rerun(workplace, seed=0, count=5)


@pytest.mark.slow
def test_a_grid_with_any_of_a_hundred_mutated_states_runs_again(workplace):
    rerun(workplace, seed=1, count=100)


def mutate_stores(workplace, seed, count):
    rng = random.Random(seed)
    whole = (workplace / "mlflow.db").read_bytes()
    for number in range(count):
        path = workplace / f"store-{number}.db"
        path.write_bytes(mutated(whole, rng))
        tried(lambda path=path: prepare_store(f"sqlite:///{path}").experiment("x"), seconds=20.0)


def test_a_mutated_store_is_a_store_or_one_message(workplace):
    mutate_stores(workplace, seed=0, count=2)


@pytest.mark.slow
def test_forty_mutated_stores(workplace):
    mutate_stores(workplace, seed=1, count=40)
