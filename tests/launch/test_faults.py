"""What a launch meets in the world: stores that are out, disks without room, files that are damaged."""

import dataclasses
import errno
import fcntl
import threading
import time

import pytest

from alpkit.errors import TrackingError
from alpkit.launch import Ended, Stepped, run_grid, states, sync_grid
from alpkit.runs import swap
from alpkit.runs.states import read_cell, read_grid, write_cell
from alpkit.tracking import MlflowSink, prepare_store
from tests.support.fake_trainer import ORDERLY, arm

OUT = "http://me:s3cret@127.0.0.1:9"  # nobody listens on the port for discarding
ALL = [(step, step / 64) for step in range(1, 7)]


@pytest.fixture
def store(options):
    return prepare_store(options().tracking_uri)


def history(store, run_id):
    return [(m.step, m.value) for m in store.client.get_metric_history(run_id, "reward/mean")]


def inline(grid, options, on_event=lambda _e: None, **rest):
    return run_grid(grid, options(launcher="inline", **rest), on_event)


def test_steps_that_the_state_file_lagged_behind_reach_the_store(make_grid, options, store):
    grid = make_grid("lagging", [arm("raise")])
    (first,) = inline(grid, options).records
    folder = options().root / "runs" / "lagging"
    # A parent that was killed between a step and the second in which it writes states.
    run_id = store.create_child(
        read_grid(folder).manifest.experiment_id,
        read_grid(folder).parent_run_id,
        "as the kill left it",
        tags={"alpkit.cell_id": first.cell_id},
        params={},
    )
    sink = MlflowSink(store.client, store.uri, run_id)
    sink.add(0, {"eval/greedy": 0.5})
    sink.add(1, {"reward/mean": 1 / 64})
    sink.flush()
    lagged = dataclasses.replace(first, run_id=run_id, state="running", steps_done=1)
    write_cell(folder / first.cell_id, lagged)
    (folder / "fixed").touch()
    (after,) = inline(grid, options).records
    assert after.run_id == run_id
    assert history(store, run_id) == ALL
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_a_finished_cell_whose_end_the_store_never_heard_is_not_left_running(
    make_grid, options, store
):
    grid = make_grid("unheard", [ORDERLY])
    (first,) = inline(grid, options).records
    store.set_status(first.run_id, "RUNNING")
    orphan = store.create_child(
        read_grid(options().root / "runs" / "unheard").manifest.experiment_id,
        read_grid(options().root / "runs" / "unheard").parent_run_id,
        "a run that was never written down",
        tags={"alpkit.cell_id": first.cell_id},
        params={},
    )
    store.discard(first.run_id)
    (after,) = inline(grid, options).records
    assert store.look(orphan) is None
    assert history(store, after.run_id) == ALL
    assert store.client.get_run(after.run_id).info.status == "FINISHED"


def test_training_goes_on_without_a_server_and_sync_sends_everything_once(
    make_grid, options, store, caplog, capsys
):
    grid = make_grid("served", [ORDERLY, arm("raise")])
    lost = dataclasses.replace(options(launcher="inline"), tracking_uri=OUT, source="name: x\n")
    started = time.monotonic()
    outcome = run_grid(grid, lost)
    assert time.monotonic() - started < 10.0
    assert [r.state for r in outcome.records] == ["finished", "failed"]
    assert "refused" in str(outcome.unsent)
    synced = sync_grid(outcome.folder, store.uri)
    assert (synced.cells, synced.unread) == (2, [])
    assert synced.steps == 7 + 3
    again = sync_grid(outcome.folder, store.uri)
    assert (again.steps, again.parent_run_id) == (0, synced.parent_run_id)
    record = read_grid(outcome.folder)
    assert [history(store, cell.run_id) for cell in record.cells] == [ALL, ALL[:2]]
    statuses = [store.client.get_run(cell.run_id).info.status for cell in record.cells]
    assert statuses == ["FINISHED", "FAILED"]
    assert store.client.get_run(record.parent_run_id).info.status == "FAILED"
    # The password is nowhere: not in a file, not in a message.
    for path in outcome.folder.rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes(), path
    printed = capsys.readouterr()
    told = caplog.text + printed.out + printed.err + str(outcome) + str(outcome.unsent)
    assert "s3cret" not in told
    assert "http://me:***@127.0.0.1:9" in told


def test_a_state_without_room_is_written_when_there_is_and_costs_no_cell(
    make_grid, options, monkeypatch, caplog
):
    grid = make_grid("narrow", [ORDERLY, arm("other")])
    folder, real = options().root / "runs" / "narrow", swap.sync_file
    full = {"now": False}

    def sync_file(path):
        if full["now"] and "json" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    monkeypatch.setattr(swap, "sync_file", sync_file)
    monkeypatch.setattr("alpkit.launch.ledger._WRITE_SECONDS", 0.0)
    events = []

    def listen(event):
        events.append(event)
        if isinstance(event, Stepped) and event.cell_id == grid.cells[0].cell_id:
            full["now"] = 2 <= event.step
        if isinstance(event, Ended) and event.cell_id == grid.cells[0].cell_id:
            assert read_cell(folder / event.cell_id).state == "running"
        if isinstance(event, Stepped) and event.cell_id == grid.cells[1].cell_id:
            full["now"] = False

    outcome = inline(grid, options, listen)
    assert [r.state for r in outcome.records] == ["finished", "finished"]
    assert [c.state for c in read_grid(folder).cells] == ["finished", "finished"]
    assert [c.state for c in read_grid(folder).manifest.cells] == ["finished", "finished"]
    assert "the disk is full" in caplog.text
    assert str(folder / grid.cells[0].cell_id / "cell.json") in caplog.text
    assert "bytes are free there" in caplog.text


@pytest.mark.parametrize(
    "state", ["{", "[]", '{"cell_id": 3}', '{"cell_id": "x", "arm": 1, "seed": "a", "grid": []}']
)
def test_one_damaged_state_does_not_block_its_grid(make_grid, options, store, caplog, state):
    grid = make_grid(f"damaged-{len(state)}", [arm("raise"), ORDERLY])
    first = inline(grid, options)
    bad = first.folder / first.records[0].cell_id
    (bad / "cell.json").write_text(state)
    (first.folder / "fixed").touch()
    caplog.clear()
    assert [r.state for r in states(grid, options().root)] == ["killed", "finished"]
    assert f"{bad / 'cell.json'} " in caplog.text
    second = inline(grid, options)
    assert [r.state for r in second.records] == ["finished", "finished"]
    assert second.records[0].run_id == first.records[0].run_id
    assert (bad / "attempts").read_text().split() == ["None", "2"]
    assert history(store, first.records[0].run_id) == ALL


def test_a_damaged_manifest_is_set_aside_and_written_anew(make_grid, options, caplog):
    grid = make_grid("unlisted", [ORDERLY])
    first = inline(grid, options)
    (first.folder / "grid.json").write_text('{"cells": [{"cell_id": 7}]}')
    second = inline(grid, options)
    assert second.skipped == (grid.cells[0].cell_id,)
    assert second.parent_run_id == first.parent_run_id
    assert read_grid(first.folder).cells == first.records
    assert (first.folder / ".grid.json.set-aside").is_file()
    assert "grid.json" in caplog.text


def test_a_folder_that_cannot_be_written_is_one_message(make_grid, options, tmp_path):
    grid = make_grid("walled", [ORDERLY])
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(TrackingError, match="cannot be written") as caught:
        run_grid(grid, dataclasses.replace(options(launcher="inline"), root=tmp_path))
    assert str(tmp_path / "runs") in caught.value.where


def test_one_process_at_a_time_creates_a_store(workplace):
    done = threading.Event()

    def create():
        prepare_store()
        done.set()

    with (workplace / ".mlflow.db.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        thread = threading.Thread(target=create)
        thread.start()
        assert not done.wait(0.5)
    thread.join(20)
    assert done.is_set()


def test_a_listener_that_fails_is_not_taken_for_a_broken_pipe(make_grid, options):
    grid = make_grid("listener", [arm("sleep")])

    def listen(event):
        if isinstance(event, Stepped):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run_grid(grid, options(jobs=1), listen)
    (cell,) = read_grid(options().root / "runs" / "listener").cells
    assert (cell.state, cell.error) == ("killed", "stopped before its end")
