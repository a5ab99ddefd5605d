"""`alpkit clean` lists first and deletes only when told; `--retry` decides which cells run again."""

import functools
import json
from pathlib import Path

import pytest
import yaml

from alpkit.cli import running
from alpkit.launch import Options
from alpkit.runs.find import list_grids
from alpkit.runs.lock import lock
from alpkit.tracking import prepare_store

WRONG = {"name": "wrong", "preset": "grpo", "model": "fake/raise"}


@pytest.fixture
def fake(monkeypatch, workplace):
    options = functools.partial(Options, trainer="tests.support.fake_trainer:train_cell")
    monkeypatch.setattr(running, "Options", options)
    write(workplace, ["grpo", WRONG])
    return workplace


def write(folder, arms):
    data = {"name": "small", "base": {"train": {"steps": 12}}, "arms": arms}
    (folder / "grid.yaml").write_text(yaml.safe_dump(data))


def run(call, *more):
    return call("run", "grid.yaml", "--launcher", "inline", *more)


def cells():
    return {cell.arm: cell for cell in list_grids(Path("."))[0].cells}


def attempts(fake, arm):
    return (fake / "runs/small" / cells()[arm].cell_id / "attempts").read_text().split()


def test_retry_decides_which_cells_run_again(call, fake):
    assert run(call)[0] == 1
    code, _, err = run(call, "--retry", "none")
    assert code == 0
    assert f"skipped {cells()['wrong'].cell_id}: it has failed" in err
    assert attempts(fake, "wrong") == ["None"]
    (fake / "runs/small/fixed").touch()
    # By default a failed cell goes on from its checkpoint, and a finished one is left alone.
    assert run(call)[0] == 0
    assert attempts(fake, "wrong") == ["None", "2"]
    assert attempts(fake, "grpo") == ["None"]


def test_retry_all_starts_over_and_keeps_what_was_there_aside(call, fake):
    (fake / "runs/small").mkdir(parents=True)
    (fake / "runs/small/fixed").touch()
    assert run(call)[0] == 0
    old = {arm: cell.run_id for arm, cell in cells().items()}
    assert run(call, "--retry", "all", "--only", "grpo")[0] == 0
    new = cells()
    assert attempts(fake, "grpo") == ["None"]
    assert new["wrong"].run_id == old["wrong"]
    # One run must not hold two attempts' numbers.
    assert new["grpo"].run_id != old["grpo"]
    assert prepare_store().look(old["grpo"]) is None
    assert prepare_store().look(new["grpo"].run_id).last_step == 12
    aside = fake / f"runs/small/.{new['grpo'].cell_id}.set-aside"
    assert (aside / "metrics.jsonl").is_file()
    assert aside.name in call("clean")[1]


def test_clean_lists_first_and_deletes_when_told(call, fake):
    (fake / "runs/small").mkdir(parents=True)
    (fake / "runs/small/fixed").touch()
    run(call)
    gone, kept = cells()["wrong"].cell_id, cells()["grpo"].cell_id
    write(fake, ["grpo"])
    run(call)
    cell = fake / "runs/small" / kept
    for step in (2, 4, 12):
        (cell / f"checkpoint/step-{step:06d}").mkdir()
        (cell / f"checkpoint/step-{step:06d}/model").write_bytes(b"x" * 1500)
    (cell / "checkpoint/.step-000006.set-aside").mkdir()
    before = sorted(fake.rglob("*"))
    code, out, err = call("clean")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[1:]]
    assert ["small", "old", "checkpoint", kept, "1.5", "kB", "step-000002"] in rows
    assert [row[1:3] for row in rows].count(["old", "checkpoint"]) == 2
    assert ["small", "set", "aside", kept, "0", "B", ".step-000006.set-aside"] in rows
    assert [row[-1] for row in rows if row[1] == "retired"] == [gone]
    assert "in 4 places; nothing was deleted: add --delete" in err
    assert sorted(fake.rglob("*")) == before

    with lock(fake / "runs/small"):
        code, _, err = call("clean", "small", "--delete")
    assert code == 2
    assert "running already" in err
    told = json.loads(call("clean", "small", "--delete", "--json")[1])
    assert told["deleted"] is True
    assert len(told["found"]) == 4
    assert not (fake / "runs/small" / gone).exists()
    assert [p.name for p in (cell / "checkpoint").glob("step-*")] == ["step-000012"]
    assert list_grids(Path("."))[0].retired == ()
    assert "nothing to clean" in call("clean")[2]
    # The grid goes on as before.
    assert run(call)[0] == 0
