"""A grid that the version before began goes on in its folders: `data/before/make.py` made one.

Its ids hashed every field of a config, so none of them is an id of this version; three cells finished,
two stopped at step 3 with a checkpoint of step 2, and one never started.
"""

import dataclasses
import functools
import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from alpkit.cli import main, running
from alpkit.config import expand, load_ablation
from alpkit.launch import Options, Started, adopt, run_grid, states
from alpkit.runs.states import read_cell, read_grid
from alpkit.tracking import prepare_store

DATA = Path(__file__).parent / "data" / "before"
FAKE = "tests.support.fake_trainer:train_cell"
FOLDERS = {path.parent.name: path.parent for path in sorted(DATA.glob("grid/*/cell.json"))}


@pytest.fixture
def before(tmp_path, monkeypatch):
    """The folder in which the version before stopped."""
    shutil.copytree(DATA / "grid", tmp_path / "runs" / "before")
    shutil.copy(DATA / "grid.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def with_store(before, empty_store):
    """The same folder, with the store that the version before kept its runs in."""
    shutil.copy(empty_store, before / "mlflow.db")
    rows = (DATA / "store.sql").read_text().replace("{root}", str(before))
    with closing(sqlite3.connect("mlflow.db")) as store:
        store.executescript(f"begin; {rows} commit;")
    return before


def wanted():
    return expand(load_ablation("grid.yaml"))


def folder_of(arm):
    return next(
        f for f in FOLDERS.values() if json.loads((f / "cell.json").read_text())["arm"] == arm
    )


def edit(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert text.count(old) == 1
    config.write_text(text.replace(old, new))


def go_on(root):
    (root / "runs" / "before" / "fixed").touch()
    events = []
    options = Options(root=root, trainer=FAKE, launcher="inline")
    return run_grid(wanted(), options, events.append), [
        event.cell_id for event in events if isinstance(event, Started)
    ]


def test_no_id_of_the_folder_is_one_of_this_version():
    assert len(FOLDERS) == 6
    ids = {cell.cell_id for cell in expand(load_ablation(DATA / "grid.yaml")).cells}
    assert not ids & FOLDERS.keys()


def test_every_cell_goes_on_where_it_was_and_none_runs_twice(with_store):
    before = with_store
    was = {r.arm: r for r in read_grid(before / "runs" / "before").cells}
    outcome, started = go_on(before)

    now = {record.arm: record for record in outcome.records}
    assert {a: (r.cell_id, r.run_id) for a, r in now.items()} == {
        a: (r.cell_id, r.run_id) for a, r in was.items()
    }
    assert {r.state for r in now.values()} == {"finished"}
    assert {r.steps_done for r in now.values()} == {6}
    assert sorted(started) == sorted(was[arm].cell_id for arm in ("half", "stopped", "waiting"))
    assert set(outcome.skipped) == {was[arm].cell_id for arm in ("seq-bypass", "whole", "ruled")}
    # No folder was added, and the finished ones are as they were but for the config of this version.
    assert {path.parent.name for path in outcome.folder.glob("*/cell.json")} == FOLDERS.keys()
    for arm in ("seq-bypass", "whole", "ruled"):
        for name in ("metrics.jsonl", "attempts", "cell.json"):
            kept = (outcome.folder / was[arm].cell_id / name).read_text()
            assert kept == (FOLDERS[was[arm].cell_id] / name).read_text()
    # What had a checkpoint goes on from it.
    attempts = {
        arm: (outcome.folder / r.cell_id / "attempts").read_text() for arm, r in was.items()
    }
    assert attempts["half"].split() == attempts["stopped"].split() == ["None", "2"]
    assert attempts["waiting"].split() == ["None"]

    record = read_grid(outcome.folder)
    assert record.retired == ()
    assert [c.cell_id for c in record.cells] == [r.cell_id for r in outcome.records]
    store = prepare_store()
    assert record.parent_run_id == "".join(
        r.info.run_id for r in store.client.search_runs(["1"], "tags.`alpkit.kind` = 'grid'")
    )
    children = store.client.search_runs(["1"], "tags.`alpkit.kind` = 'cell'")
    assert {run.info.run_id for run in children} == {r.run_id for r in was.values()}
    assert {run.info.status for run in children} == {"FINISHED"}
    for old in was.values():
        told = store.client.get_metric_history(old.run_id, "reward/mean")
        assert [(m.step, m.value) for m in told] == [(s, s / 64) for s in range(1, 7)]

    again, started = go_on(before)
    assert started == []
    assert {r.cell_id for r in again.records} == FOLDERS.keys()


@pytest.fixture
def say(monkeypatch, capsys):
    def call(*args):
        monkeypatch.setattr(sys, "argv", ["alpkit", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert not ended.value.code
        return captured.out, captured.err

    return call


def test_plan_says_what_goes_on_and_run_would_do_it(before, say):
    files = sorted(path for path in before.rglob("*") if path.is_file())
    out, err = say("plan", "grid.yaml")
    rows = {line.split()[1]: (line.split()[0], line.split()[-1]) for line in out.splitlines()[1:]}
    assert rows == {
        json.loads((folder / "cell.json").read_text())["arm"]: (
            name,
            json.loads((folder / "cell.json").read_text())["state"],
        )
        for name, folder in FOLDERS.items()
    }
    told = "6 cells go on in the folders of an earlier version: 3 finished, 1 failed, 1 killed, 1 pending"
    assert f"note: {told}" in err
    assert "6 cells, 3 finished" in err
    out, err = say("plan", "grid.yaml", "--json")
    assert {cell["cell_id"] for cell in json.loads(out)["cells"]} == FOLDERS.keys()
    assert told in json.loads(out)["notes"]
    assert sorted(path for path in before.rglob("*") if path.is_file()) == files


def test_dry_run_lists_the_folders_that_would_go_on(before, say, monkeypatch):
    monkeypatch.setattr(running, "Options", functools.partial(Options, trainer=FAKE))
    out, err = say("run", "grid.yaml", "--dry-run")
    rows = {line.split()[1]: line.split()[0] for line in out.splitlines()[1:]}
    assert rows == {arm: folder_of(arm).name for arm in ("half", "stopped", "waiting")}
    assert "dry run: 3 of 6 cells would run" in err


def test_an_amended_file_goes_on_too(with_store):
    before = with_store
    edit(before / "grid.yaml", "seeds: [3]", "seeds: [3, 4]")
    edit(before / "grid.yaml", "  - {name: ruled, preset: geo-rs}\n", "")
    outcome, started = go_on(before)
    old = {r.arm: r.cell_id for r in outcome.records if r.seed == 3}
    assert old == {
        arm: folder_of(arm).name for arm in ("seq-bypass", "whole", "half", "stopped", "waiting")
    }
    new = {c.cell_id for c in wanted().cells if c.seed == 4}
    assert len(new) == 5
    assert set(started) == new | {old[arm] for arm in ("half", "stopped", "waiting")}
    assert [(r.arm, r.cell_id) for r in read_grid(outcome.folder).retired] == [
        ("ruled", folder_of("ruled").name)
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  replay: false\n", ""),
        ("  agreement_with: null\n", ""),
        ("revision: null\n", ""),
        ("  keep: 2\n", "  keep: 7\n"),
    ],
    ids=["without a field", "without a removed field", "at the top", "other checkpoints"],
)
def test_a_config_that_is_equal_but_for_what_decides_nothing_goes_on(before, old, new):
    edit(before / "runs" / "before" / folder_of("whole").name / "config.yaml", old, new)
    assert {c.arm: c.cell_id for c in adopt(wanted(), before).cells}["whole"] == folder_of(
        "whole"
    ).name


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ("  lr: 0.0002\n", "  lr: 0.5\n", None),
        ("seed: 3\n", "seed: 5\n", None),
        (
            "agreement_with: null",
            "agreement_with: icepop",
            "config.yaml:36:19  diagnostics.agreement_with is no longer a field: `alpkit replay",
        ),
        ("  steps: 6\n", "  stepz: 6\n", "config.yaml:17:3  train.stepz is not a field of train"),
        ("  steps: 6\n", "  steps: {\n", "not valid YAML"),
    ],
)
def test_another_config_is_another_cell_and_one_that_cannot_be_read_is_named(
    before, old, new, note
):
    home = before / "runs" / "before" / folder_of("whole").name
    edit(home / "config.yaml", old, new)
    grid = adopt(wanted(), before)
    fresh = {c.arm: c.cell_id for c in wanted().cells}["whole"]
    assert {c.arm: c.cell_id for c in grid.cells}["whole"] == fresh
    assert {r.arm: r.state for r in states(wanted(), before)}["whole"] == "pending"
    told = [text for text in grid.notes if text.startswith(f"{home.name} is left alone: ")]
    assert len(told) == bool(note)
    assert not note or note in told[0]
    assert adopt(grid, before) == grid


def test_of_two_folders_of_one_config_the_furthest_goes_on(before):
    folder = before / "runs" / "before"
    for name, arm, changes in (
        ("0000000000", "half", {"steps_done": 1}),
        ("ffffffffff", "half", {"steps_done": 3}),
        ("eeeeeeeeee", "whole", {"state": "failed", "steps_done": 9}),
    ):
        shutil.copytree(folder_of(arm), folder / name)
        record = dataclasses.replace(read_cell(folder / name), cell_id=name, **changes)
        (folder / name / "cell.json").write_text(json.dumps(dataclasses.asdict(record)))
    ids = {c.arm: c.cell_id for c in adopt(wanted(), before).cells}
    assert ids["half"] == "ffffffffff"
    assert ids["whole"] == folder_of("whole").name  # finished counts for more than steps


def test_a_cell_with_a_folder_of_its_own_stays_in_it(before):
    cell = next(c for c in wanted().cells if c.arm == "half")
    shutil.copytree(folder_of("half"), before / "runs" / "before" / cell.cell_id)
    assert {c.arm: c.cell_id for c in adopt(wanted(), before).cells}["half"] == cell.cell_id


def test_a_grid_that_never_ran_is_left_as_it_is(before):
    shutil.rmtree(before / "runs")
    grid = wanted()
    assert adopt(grid, before) is grid
    assert not (before / "runs").exists()
