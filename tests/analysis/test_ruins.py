"""What a killed, moved or half-copied grid leaves: a report of what there is, a list of what is not."""

import json
import shutil
import sys

import pytest

from alpkit import analysis
from alpkit.cli import main
from alpkit.tracking import prepare_store
from tests.support.synthetic_grid import write_grid

CELL = "0000abcdef"


def cut(name):
    def damage(folder):
        path = folder / CELL / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def remove(name):
    def damage(folder):
        path = folder / CELL / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def write(name, text):
    return lambda folder: (folder / CELL / name).write_text(text)


def empty_records(folder):
    for path in (folder / CELL / "records").iterdir():
        path.unlink()


# What is done to a finished cell, what the report must name, and whether the cell still counts.
DAMAGE = {
    "a record cut in half": (cut("records/tokens-000012.parquet"), "tokens-000012.parquet: not", 2),
    "no records": (remove("records"), f"{CELL}/records: no token records", 2),
    "an empty records folder": (empty_records, f"{CELL}/records: no token records", 2),
    "no metrics": (remove("metrics.jsonl"), f"{CELL}/metrics.jsonl: no metrics", 2),
    "metrics cut in half": (cut("metrics.jsonl"), f"{CELL}/metrics.jsonl:", 2),
    "no config": (remove("config.yaml"), f"{CELL}/config.yaml: cannot be read", 2),
    "a config of no mapping": (write("config.yaml", "- 1"), f"{CELL}/config.yaml: holds no", 2),
    "a state of no JSON": (write("cell.json", "{"), f"{CELL}/cell.json: cannot be read", 2),
    "spikes of no JSON": (write("spikes.jsonl", "{\n"), f"{CELL}/spikes.jsonl:1: not a whole", 2),
    "counts of no JSON": (
        write("evaluations.jsonl", "{\n"),
        f"{CELL}/evaluations.jsonl:1: not a whole",
        2,
    ),
    "no folder at all": (lambda folder: shutil.rmtree(folder / CELL), f"{CELL}/metrics.jsonl", 2),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_the_rest_is_reported(small_root, words_only, name):
    damage, said, counted = DAMAGE[name]
    damage(small_root / "runs/small")
    report = analysis.analyze("small", root=small_root)
    assert any(said in item for item in report.summary["missing"]), report.summary["missing"]
    assert all(str(small_root) not in item for item in report.summary["missing"])
    assert report.summary["arms"]["grpo"]["n"] == counted
    assert report.summary["arms"]["token-tis"]["n"] == 2
    text = (report.folder / "report.md").read_text()
    gaps = text[text.index("## Cells and gaps") :]
    assert said in gaps


def test_a_killed_cell_is_no_result(small_root, words_only):
    path = small_root / "runs/small" / CELL / "cell.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "state": "running", "steps_done": 5})
    )
    report = analysis.analyze("small", root=small_root)
    assert report.summary["cells"] == {"finished": 3, "killed": 1}
    text = (report.folder / "report.md").read_text()
    assert "grpo, seed 0: killed after 5 step(s); not in any mean." in text
    # One shared seed is left of the pair.
    assert "1 shared finished seed, a test needs 3" in text


@pytest.mark.parametrize("state", ["pending", "failed", "running"])
def test_zero_finished_cells_still_give_every_section(small_root, words_only, state):
    for path in (small_root / "runs/small").glob("*/cell.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "state": state}))
    report = analysis.analyze("small", root=small_root)
    text = (report.folder / "report.md").read_text()
    assert "No cell has finished" in text
    assert report.summary["verdict_given"] is False
    assert {c["state"] for f in report.summary["findings"] for c in f["claims"]} == {
        "cannot be said"
    }
    assert "report.html" in report.files


def test_a_manifest_without_cells_is_a_report_too(small_root, words_only):
    path = small_root / "runs/small/grid.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cells": []}))
    report = analysis.analyze("small", root=small_root)
    assert report.summary["cells"] == {}
    assert "No cell has finished" in (report.folder / "report.md").read_text()


@pytest.fixture
def stored(tmp_path, monkeypatch, words_only):
    """A one-cell grid with its parent run in a store of its own, in the working directory."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    store = prepare_store()
    run_id = store.open_parent(store.experiment("small"), "small", {"alpkit.grid_id": "x"})
    folder = write_grid(home, name="small", arms=("grpo",), seeds=(0,), steps=3)
    path = folder / "grid.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "parent_run_id": run_id}))

    def analyze(name):
        monkeypatch.setattr(sys, "argv", ["alpkit", "analyze", name, "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == 0

    return home, run_id, analyze


def test_a_grids_and_a_cells_report_lie_side_by_side(stored, capsys):
    _, run_id, analyze = stored
    analyze("small")
    analyze("0000abcdef")
    client = prepare_store().client
    for place, title in (("report", "# small\n"), ("report-0000abcdef", "# small: grpo, seed 0\n")):
        files = {file.path for file in client.list_artifacts(run_id, place)}
        assert {f"{place}/report.html", f"{place}/summary.json"} <= files
        text = client.download_artifacts(run_id, f"{place}/report.md")
        with open(text) as file:
            assert file.read().startswith(title)


def test_a_moved_store_costs_the_artifacts_and_not_the_report(
    stored, tmp_path, monkeypatch, capsys
):
    home, _, analyze = stored
    away = tmp_path / "away"
    home.rename(away)
    monkeypatch.chdir(away)
    analyze("small")
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["logged"] is False
    assert "the tracking store has been moved" in printed.err
    assert (away / told["report"] / "report.html").exists()
    assert not home.exists()
