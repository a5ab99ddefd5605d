"""States and manifests: replaced whole, read whatever version wrote them, and no cell runs without a process."""

import dataclasses
import json

import pytest

from alpkit.errors import TrackingError
from alpkit.runs.folder import GridFolder, RunFolder
from alpkit.runs.states import (
    CellRecord,
    Manifest,
    ManifestCell,
    killed_if_not_live,
    read_cell,
    read_grid,
    read_manifest,
    scan_cell,
    scan_manifest,
    write_cell,
)
from tests.support.bare_grids import make_grid

# As the first version of alpkit wrote it, with a key that none has.
OLD = {
    "grid": "old",
    "grid_id": "0123456789",
    "question": "why?",
    "cells": [
        {
            "cell_id": "c0",
            "arm": "grpo",
            "seed": 3,
            "axes": {"train.lr": 1e-4},
            "run_id": "r0",
            "state": "finished",
            "colour": "red",
        }
    ],
    "controls": {"seq-alp": "seq-bypass"},
    "notes": ["merged"],
    "created": "2026-01-01",
    "experiment_id": "1",
    "parent_run_id": "p",
    "retired": [{"cell_id": "c9", "arm": "gspo", "seed": 0, "run_id": "r9", "state": "killed"}],
    "colour": 3,
}


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))


def test_the_cells_own_file_is_the_truth_about_its_state(tmp_path):
    folder = make_grid(tmp_path, "g", "2026-01-01", parent="p")
    assert read_grid(folder).cells[0].state == "pending"
    record = CellRecord("c0", "grpo", 0, "g", run_id="r0", state="finished", steps_done=7)
    write_cell(folder / "c0", record)
    assert read_grid(folder).cells == (record,)
    assert json.loads((folder / "c0" / "cell.json").read_text())["steps_done"] == 7


def test_a_manifest_of_another_version_is_read(tmp_path):
    write(tmp_path / "grid.json", OLD)
    manifest = read_manifest(tmp_path)
    assert manifest.cells == (ManifestCell("c0", "grpo", 3, {"train.lr": 1e-4}, "r0", "finished"),)
    assert manifest.retired == (ManifestCell("c9", "gspo", 0, {}, "r9", "killed"),)
    assert manifest.controls == {"seq-alp": "seq-bypass"}
    assert (manifest.git, manifest.warnings) == ("", ())
    # It had no `launched` yet: `latest` is judged by its creation.
    assert read_grid(tmp_path).launched == "2026-01-01"
    assert (manifest.notes, manifest.experiment_id, manifest.parent_run_id) == (
        ("merged",),
        "1",
        "p",
    )


def test_a_manifest_comes_back_from_json_as_it_was():
    manifest = Manifest.from_json(OLD)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.grid = "other"


def test_a_manifest_without_a_name_is_called_by_its_folder(tmp_path):
    write(tmp_path / "g" / "grid.json", {"cells": [], "grid": None})
    assert read_grid(tmp_path / "g").name == "g"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"cells": [', "cannot be read"),
        ("[]", "holds no mapping"),
        ("{}", "lacks cells"),
        ('{"cells": [{"cell_id": "c"}]}', "lacks arm, seed"),
        ('{"cells": [3]}', "cannot be read"),
        ('{"cells": 3}', "cannot be read"),
    ],
)
def test_a_damaged_manifest_is_a_fault_and_for_the_strict_an_error(tmp_path, text, why):
    write(tmp_path / "grid.json", text)
    (fault,) = scan_manifest(tmp_path).faults
    assert fault.place_in(tmp_path) == "grid.json"
    assert why in fault.reason
    with pytest.raises(TrackingError, match="manifest cannot be read") as caught:
        read_grid(tmp_path)
    assert caught.value.where == str(GridFolder(tmp_path).manifest)


def test_unknown_fields_of_a_newer_version_are_ignored_and_nulls_are_defaults(tmp_path):
    cell = {"cell_id": "c", "arm": "a", "seed": 1, "grid": "g", "colour": 3, "steps_done": None}
    write(tmp_path / "cell.json", cell)
    assert read_cell(tmp_path) == CellRecord("c", "a", 1, "g")
    assert read_cell(tmp_path / "nothing") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"cell_id": "c0"}'])
def test_a_damaged_state_leaves_what_the_manifest_knows(tmp_path, text):
    folder = make_grid(tmp_path, "g", "2026-01-01", parent="p")
    write(RunFolder(folder / "c0").state, text)
    assert read_grid(folder).cells == (CellRecord("c0", "grpo", 0, "g", run_id="r0"),)
    rows, faults = scan_cell(folder / "c0")
    assert rows == []
    assert [fault.place_in(folder) for fault in faults] == ["c0/cell.json"]
    with pytest.raises(TrackingError, match="state cannot be read"):
        read_cell(folder / "c0")


def test_retired_cells_stay_in_the_grid(tmp_path):
    gone = CellRecord("old1", "grpo", 0, "g", run_id="dead01", state="finished")
    folder = make_grid(tmp_path, "g", "2026-01-01", parent="p", retired=[gone])
    assert read_grid(folder).retired == (gone,)


def test_a_running_cell_without_a_process_counts_as_killed():
    cell = CellRecord("c", "a", 0, "g", state="running")
    done = CellRecord("d", "a", 1, "g", state="finished")
    assert [c.state for c in killed_if_not_live([cell, done], live=False)] == ["killed", "finished"]
    assert killed_if_not_live([cell, done], live=True) == (cell, done)
