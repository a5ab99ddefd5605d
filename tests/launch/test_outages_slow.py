"""Real outages, minutes long: an MLflow server over HTTP that is killed, and disks that are full."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from alpkit import analysis
from alpkit.config import expand, load_ablation
from alpkit.errors import TrackingError
from alpkit.launch import Options, Stepped, run_grid, sync_grid
from alpkit.runs.states import read_grid
from alpkit.tracking import prepare_store

pytestmark = pytest.mark.slow
FAKE = "tests.support.fake_trainer:train_cell"
STEPS = 1500  # of 50 ms each
OUT = (100, 1300)  # the steps between which the server is down: a minute


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def grid_file(place, steps=STEPS):
    file = place / "grid.yaml"
    base = {"model": "fake/slow", "train": {"steps": steps}}
    file.write_text(yaml.safe_dump({"name": "out", "base": base, "arms": ["grpo"], "seeds": [0]}))
    return expand(load_ablation(file))


@contextlib.contextmanager
def server(place, port):
    uri = f"sqlite:///{place}/server.db"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--artifacts-destination", str(place / "artifacts")]
    with (place / "server.txt").open("a") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert child.poll() is None, (place / "server.txt").read_text()
            time.sleep(0.1)
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, 9)
        child.wait()


def steps_of(uri, run_id):
    history = prepare_store(uri).client.get_metric_history(run_id, "reward/mean")
    return [metric.step for metric in history]


def test_a_server_that_is_killed_for_a_minute_slows_no_step_and_gets_everything(tmp_path):
    grid, port = grid_file(tmp_path), free_port()
    uri, times = f"http://127.0.0.1:{port}", {}
    options = Options(root=tmp_path, tracking_uri=uri, launcher="inline", trainer=FAKE)
    with contextlib.ExitStack() as first:
        first.enter_context(server(tmp_path, port))
        back = contextlib.ExitStack()
        starting = threading.Thread(target=lambda: back.enter_context(server(tmp_path, port)))

        def listen(event):
            if not isinstance(event, Stepped):
                return
            times[event.step] = time.monotonic()
            if event.step == OUT[0]:
                first.close()
            if event.step == OUT[1]:
                starting.start()

        outcome = run_grid(grid, options, listen)
        running = (times[OUT[0]] - times[1]) / (OUT[0] - 1)
        out = times[OUT[1] - 1] - times[OUT[0] + 1]
        assert out > 60.0
        # Half of slack for the machine: a retry of MLflow's own would cost minutes.
        assert out < 1.5 * running * (OUT[1] - OUT[0])
        starting.join()
        with back:
            if outcome.unsent is not None:
                sync_grid(outcome.folder)
            (cell,) = read_grid(outcome.folder).cells
            assert steps_of(uri, cell.run_id) == list(range(1, STEPS + 1))
            assert prepare_store(uri).client.get_run(cell.run_id).info.status == "FINISHED"


class Broken(BaseHTTPRequestHandler):
    """Answers 500 to everything."""

    def do_GET(self):
        self.send_response(500)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_):
        pass


def test_a_server_that_answers_500_or_never_costs_no_step_and_ctrl_c_ends_at_once(
    tmp_path, empty_store
):
    broken = HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=broken.serve_forever, daemon=True).start()
    for name, port in (("broken", broken.server_port), ("never", free_port())):
        place = tmp_path / name
        place.mkdir()
        options = Options(
            root=place,
            tracking_uri=f"http://127.0.0.1:{port}",
            launcher="inline",
            trainer=FAKE,
        )
        stopped = []

        def listen(event, stopped=stopped):
            if isinstance(event, Stepped) and event.step == 40:
                stopped.append(time.monotonic())
                raise KeyboardInterrupt

        grid = grid_file(place, steps=60)
        with pytest.raises(KeyboardInterrupt):
            run_grid(grid, options, listen)
        assert time.monotonic() - stopped[0] < 5.0
        outcome = run_grid(grid, options)
        assert outcome.unsent is not None
        target = f"sqlite:///{place}/mlflow.db"
        (place / "mlflow.db").write_bytes(empty_store.read_bytes())
        sync_grid(outcome.folder, target)
        (cell,) = read_grid(outcome.folder).cells
        assert steps_of(target, cell.run_id) == list(range(1, 61))
    broken.shutdown()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MB, where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {done.stderr.strip()}")
    yield place
    # Lazily: a failed test's traceback may hold a file open.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place, leave):
    """Fill the file system but for `leave` bytes; give the file that takes the room."""
    ballast = Path(place) / "ballast"
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        file.write(b"x" * max(0, free - leave))
    return ballast


# What still has room when the disk is full: nothing, or one page.
@pytest.mark.parametrize("launcher", ["inline", "processes"])
@pytest.mark.parametrize("leave", [0, 4096])
def test_a_full_disk_is_told_and_the_same_command_finishes_when_there_is_room(
    small_disk, tmp_path, empty_store, launcher, leave
):
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    base = {"model": "fake/slow", "train": {"steps": 60}}
    file = tmp_path / "grid.yaml"
    file.write_text(
        yaml.safe_dump({"name": "full", "base": base, "arms": ["grpo"], "seeds": [0, 1]})
    )
    grid = expand(load_ablation(file))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    options = Options(root=small_disk, tracking_uri=uri, launcher=launcher, jobs=2, trainer=FAKE)
    ballast = []

    def listen(event):
        if isinstance(event, Stepped) and event.step == 5 and not ballast:
            ballast.append(fill(small_disk, leave))

    told = ""
    try:
        outcome = run_grid(grid, options, listen)
        told = "\n".join(record.error or "" for record in outcome.records)
    except Exception as error:
        told = str(error)
    assert "the disk is full" in told, told
    assert re.search(r"\d+ bytes are free there", told)
    assert str(small_disk) in told
    ballast[0].unlink()
    outcome = run_grid(grid, options)
    assert [r.state for r in outcome.records] == ["finished", "finished"]
    for record in outcome.records:
        assert steps_of(uri, record.run_id) == list(range(1, 61))


def log_of(place):
    """What the workers of a place wrote into their logs."""
    return " ".join(path.read_text() for path in place.glob("runs/*/*/log.txt"))


# Room for the lines of metrics and for states, and not for a step's records; or for records too, and not for
# a checkpoint of 3 MB.
@pytest.mark.parametrize("launcher", ["inline", "processes"])
@pytest.mark.parametrize(("what", "leave"), [("records", 44_000), ("checkpoint", 600_000)])
def test_records_and_checkpoints_without_room_are_told_and_written_when_there_is(
    small_disk, tmp_path, empty_store, caplog, launcher, what, leave
):
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    base = {
        "rollout": {"prompts": 64, "group": 8},
        "train": {"steps": 4, "updates_per_rollout": 4},
        "eval": {"every": 4, "items": 16, "k": 2},
        "records": {"every": 1},
        "checkpoint": {"every": 2},
    }
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump({"name": "full", "base": base, "arms": ["grpo"], "seeds": [0]}))
    grid = expand(load_ablation(file))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    options = Options(root=small_disk, tracking_uri=uri, launcher=launcher, jobs=1)
    ballast = []

    def listen(event):
        if isinstance(event, Stepped) and event.step == 1 and not ballast:
            ballast.append(fill(small_disk, leave))

    told = ""
    try:
        outcome = run_grid(grid, options, listen)
        assert [record.state for record in outcome.records] == ["failed"]
        told = outcome.records[0].error or ""
    except TrackingError as error:  # no room for the state either: told with what came before
        told = f"{error} {caplog.text} {log_of(small_disk)}"
    assert "the disk is full" in told
    # A worker is a step further when its parent hears of one: which file it was, is the worker's luck.
    assert (f"/{what}" if launcher == "inline" else str(small_disk)) in told
    assert re.search(r"\d+ bytes are free there", told)
    ballast[0].unlink()
    outcome = run_grid(grid, options)
    (record,) = outcome.records
    assert record.state == "finished"
    assert steps_of(uri, record.run_id) == [1, 2, 3, 4]
    frame = analysis.load(str(outcome.folder))  # strict: everything that was written can be read
    assert frame.records.steps(record.cell_id) == [1, 2, 3, 4]
