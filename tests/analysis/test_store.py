"""A grid without its folder is read from MLflow, as far as MLflow has it."""

import json
import math

import pytest

from alpkit import analysis
from alpkit.errors import GridError
from alpkit.tracking import MlflowSink, prepare_store

ARMS = ("grpo", "mine")


@pytest.fixture
def runs(workplace):
    """Parent and child runs of a grid in the store of an otherwise empty folder."""
    store = prepare_store()
    experiment = store.experiment("lost")
    parent = store.open_parent(experiment, "lost", {"alpkit.grid_id": "abc123"})
    children = {}
    for arm in ARMS:
        tags = {"alpkit.cell_id": f"cell-{arm}", "alpkit.arm": arm, "alpkit.seed": "0"}
        child = store.create_child(experiment, parent, f"{arm} seed=0", tags=tags, params={})
        store.log_text(child, "model: tiny\ntrain: {steps: 12}\n", "config.yaml")
        sink = MlflowSink(store.client, store.uri, child)
        for step in range(13):
            sink.add(step, {"reward/mean": step / 10, "kl/k3": math.inf if step == 3 else 0.5})
        sink.flush()
        store.set_status(child, "FINISHED" if arm == "grpo" else "FAILED")
        children[arm] = child
    # The file was amended since: mine comes first, under a better name.
    manifest = {
        "grid": "lost",
        "question": "Where is it?",
        "controls": {"ours": "grpo"},
        "cells": [
            {"cell_id": "cell-mine", "arm": "ours", "seed": 0, "axes": {}},
            {"cell_id": "cell-grpo", "arm": "grpo", "seed": 0, "axes": {}},
            {"cell_id": "cell-new", "arm": "new", "seed": 0, "axes": {}},
        ],
    }
    (workplace / "grid.json").write_text(json.dumps(manifest))
    store.log_files(parent, workplace / "grid.json")
    (workplace / "grid.json").unlink()
    return {"parent": parent, **children}


def test_cells_and_steps_come_from_the_store(runs, workplace):
    frame = analysis.load("lost", root=workplace, strict=False)
    assert frame.cells[["arm", "state", "steps_done"]].to_numpy().tolist() == [
        ["ours", "failed", 12],
        ["grpo", "finished", 12],
    ]
    assert frame.grid.question == "Where is it?"
    assert frame.grid.parent_run_id == runs["parent"]
    own = frame.steps[frame.steps["arm"] == "grpo"]
    assert own["reward/mean"].tolist() == [step / 10 for step in range(13)]
    # MLflow keeps an infinity as its largest number; here it is missing, as in the folder's own log.
    assert own["kl/k3"].isna().tolist() == [step == 3 for step in range(13)]
    assert "no token records" in frame.grid.notes[-1]
    assert [item.where for item in frame.missing] == ["cell-grpo/records"]


def test_a_childs_run_id_is_one_cell_and_tails_are_empty(runs, workplace):
    frame = analysis.load(runs["parent"], root=workplace, strict=False)
    assert frame.pooled["grpo"].levels == {}
    one = analysis.load(runs["mine"], root=workplace, strict=False)
    assert one.cells["cell_id"].tolist() == ["cell-mine"]
    assert one.only_cell == "cell-mine"


def test_what_no_store_knows_is_the_same_error_as_before(runs, workplace, tmp_path_factory):
    with pytest.raises(GridError, match="nowhere"):
        analysis.load("nowhere", root=workplace)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(GridError, match="lost"):
        analysis.load("lost", root=empty)
    assert list(empty.iterdir()) == []


def test_its_report_says_what_is_missing(runs, workplace):
    report = analysis.analyze("lost", root=workplace)
    text = (report.folder / "report.md").read_text()
    assert "Read from the MLflow store alone" in text
    assert "Envelope of the log ratio: not drawn" in text
    assert report.summary["cells"] == {"failed": 1, "finished": 1}
    assert list((workplace / "runs").glob("*")) == []
