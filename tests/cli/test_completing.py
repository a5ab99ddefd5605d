"""Shell completion offers what is here: grids first, cells once something is typed, arms behind a colon."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alpkit.cli import completing
from alpkit.runs.folder import grid_folder
from alpkit.runs.states import CellRecord, Manifest, ManifestCell, write_grid

ROOT = Path(__file__).parents[2]


@pytest.fixture
def grids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, launched in (("old", "2026-01-01"), ("new", "2026-01-02")):
        arms = ("grpo", "seq-alp")
        records = [
            CellRecord(f"{name}{i}", arm, 0, name, f"run-{name}{i}") for i, arm in enumerate(arms)
        ]
        listed = tuple(ManifestCell(r.cell_id, r.arm, r.seed) for r in records)
        manifest = Manifest(grid=name, cells=listed, launched=launched, parent_run_id=f"p{name}")
        grid_folder(Path("."), name).mkdir(parents=True)
        write_grid(grid_folder(Path("."), name), manifest, records)
    return tmp_path


def test_run_ids(grids):
    assert [name for name, _ in completing.run_ids("")] == ["latest", "new", "old"]
    assert completing.run_ids("l") == [("latest", "the newest: new")]
    assert [name for name, _ in completing.run_ids("old")] == ["old", "old0", "old1"]
    assert completing.run_ids("run-new1") == [
        ("run-new1", "MLflow run of new seq-alp seed=0, pending")
    ]
    assert completing.run_ids("zzz") == []


def test_arms_behind_a_colon(grids):
    assert completing.arms("ne") == completing.run_ids("ne")
    assert completing.arms("new:") == [("new:grpo", ""), ("new:seq-alp", "")]
    assert completing.arms("new:s") == [("new:seq-alp", "")]
    assert completing.arms("nope:") == []


def test_nothing_to_complete_is_no_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert completing.run_ids("") == []
    assert "quickstart" in completing.example_names("q")
    assert "seq-alp" in completing.presets("seq")


@pytest.mark.parametrize(
    ("shell", "words", "told"),
    [
        ("bash", {"COMP_WORDS": "alpkit show la", "COMP_CWORD": "2"}, "latest"),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "alpkit show la"}, '"latest":"the newest'),
    ],
)
def test_the_shells_ask_through_the_environment(grids, shell, words, told):
    start = "import sys; sys.argv[0] = 'alpkit'; from alpkit.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_ALPKIT_COMPLETE": f"complete_{shell}"}
    done = subprocess.run(
        [sys.executable, "-c", start], env={**environment, **words}, capture_output=True, text=True
    )
    assert told in done.stdout
    assert done.stderr == ""
