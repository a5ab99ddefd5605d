"""Run folders: atomic state files, honest states, and what a RUN_ID may be."""

import json
import subprocess
import sys

import pytest

from alpkit.errors import GridError, TrackingError
from alpkit.runs import states as runs
from alpkit.runs.states import CellRecord, Target


def make_grid(root, name, launched, *, parent, cells=(("c0", "r0"),), retired=()):
    folder = runs.grid_folder(root, name)
    records = [CellRecord(c, "grpo", i, name, run_id=r) for i, (c, r) in enumerate(cells)]
    for record in records:
        runs.write_cell(folder / record.cell_id, record)
    manifest = {
        "grid": name,
        "parent_run_id": parent,
        "launched": launched,
        "cells": [
            {"cell_id": c, "arm": "grpo", "seed": i, "axes": {}} for i, (c, _) in enumerate(cells)
        ],
    }
    runs.write_grid(folder, manifest, records, retired)
    return folder


@pytest.fixture
def two_grids(tmp_path):
    older = make_grid(
        tmp_path,
        "alpha",
        "2026-01-01",
        parent="feed01",
        cells=[("aa11", "beef01"), ("ab22", "beef02")],
    )
    newer = make_grid(tmp_path, "beta", "2026-01-02", parent="feed02", cells=[("bb11", "cafe01")])
    return tmp_path, older, newer


@pytest.mark.parametrize(
    ("text", "grid", "cell"),
    [
        ("feed01", "alpha", None),
        ("beef02", "alpha", "ab22"),
        ("ab22", "alpha", "ab22"),
        ("latest", "beta", None),
        ("alpha", "alpha", None),
        ("alp", "alpha", None),
        ("cafe", "beta", "bb11"),
        ("runs/alpha", "alpha", None),
        ("runs/alpha/aa11", "alpha", "aa11"),
    ],
)
def test_run_ids_resolve_in_the_documented_order(two_grids, text, grid, cell):
    root, _, _ = two_grids
    assert runs.resolve(text, root) == Target(root / "runs" / grid, cell)


def test_an_exact_id_wins_over_a_grid_that_is_called_the_same(tmp_path):
    one = make_grid(tmp_path, "one", "2026-01-01", parent="two")
    two = make_grid(tmp_path, "two", "2026-01-02", parent="xyz")
    assert runs.resolve("two", tmp_path) == Target(one)
    assert runs.resolve("xyz", tmp_path) == Target(two)


def test_a_grid_called_latest_is_reached_by_its_folder(tmp_path):
    make_grid(tmp_path, "latest", "2026-01-01", parent="p1")
    newer = make_grid(tmp_path, "newer", "2026-01-02", parent="p2")
    assert runs.resolve("latest", tmp_path) == Target(newer)


def test_an_ambiguous_prefix_lists_what_it_could_mean(two_grids):
    root, _, _ = two_grids
    with pytest.raises(GridError) as caught:
        runs.resolve("feed", root)
    assert "names 2 runs" in caught.value.what
    assert "runs/alpha" in caught.value.why
    assert "runs/beta" in caught.value.why
    assert caught.value.exit_code == 2


def test_an_unknown_id_lists_what_exists(two_grids, tmp_path):
    root, _, _ = two_grids
    with pytest.raises(GridError, match="no run 'nope'") as caught:
        runs.resolve("nope", root)
    assert caught.value.why == "grids here: beta, alpha"
    with pytest.raises(GridError, match="no grid has run here"):
        runs.resolve("latest", tmp_path / "elsewhere")
    with pytest.raises(GridError, match="no run ''"):
        runs.resolve("", root)


def test_a_damaged_manifest_does_not_hide_the_other_grids(two_grids):
    root, older, newer = two_grids
    (newer / "grid.json").write_text('{"cells": [')
    assert runs.resolve("latest", root) == Target(older)
    with pytest.raises(TrackingError, match="cannot be read"):
        runs.read_grid(newer)


def test_retired_cells_stay_reachable(tmp_path):
    gone = CellRecord("old1", "grpo", 0, "g", run_id="dead01", state="finished")
    folder = make_grid(tmp_path, "g", "2026-01-01", parent="p", retired=[gone])
    assert runs.read_grid(folder).retired == (gone,)
    assert runs.resolve("dead01", tmp_path) == Target(folder, "old1")


def test_the_cells_own_file_is_the_truth_about_its_state(tmp_path):
    folder = make_grid(tmp_path, "g", "2026-01-01", parent="p")
    assert runs.read_grid(folder).cells[0].state == "pending"
    record = CellRecord("c0", "grpo", 0, "g", run_id="r0", state="finished", steps_done=7)
    runs.write_cell(folder / "c0", record)
    assert runs.read_grid(folder).cells == (record,)
    assert json.loads((folder / "c0" / "cell.json").read_text())["steps_done"] == 7


def test_unknown_fields_of_a_newer_version_are_ignored(tmp_path):
    runs.write_json(
        tmp_path / "cell.json", {"cell_id": "c", "arm": "a", "seed": 1, "grid": "g", "colour": 3}
    )
    assert runs.read_cell(tmp_path) == CellRecord("c", "a", 1, "g")
    assert runs.read_cell(tmp_path / "nothing") is None


def test_writing_leaves_no_temporary_file_and_replaces_whole(tmp_path):
    runs.write_json(tmp_path / "a.json", {"x": 1})
    runs.write_json(tmp_path / "a.json", {"x": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 2}


def test_a_running_cell_without_a_process_counts_as_killed():
    cell = CellRecord("c", "a", 0, "g", state="running")
    done = CellRecord("d", "a", 1, "g", state="finished")
    assert [c.state for c in runs.honest([cell, done], live=False)] == ["killed", "finished"]
    assert runs.honest([cell, done], live=True) == (cell, done)


def test_one_process_at_a_time_holds_a_grid(tmp_path):
    folder = tmp_path / "g"
    assert not runs.is_live(folder)
    hold = (
        "import sys, pathlib\nfrom alpkit.runs import states as runs\n"
        "with runs.lock(pathlib.Path(sys.argv[1])):\n print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    assert runs.is_live(folder)
    with pytest.raises(GridError, match="running already") as caught, runs.lock(folder):
        pass
    assert str(process.pid) in caught.value.why
    process.kill()
    process.communicate()
    assert not runs.is_live(folder)
    with runs.lock(folder):
        assert runs.is_live(folder)
