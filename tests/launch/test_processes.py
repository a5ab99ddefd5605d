"""Worker processes for real: crashes, signals, leases, orphans."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alpkit.launch import Processes, Stepped, run_grid
from alpkit.launch.base import cores
from alpkit.runs.states import read_grid
from alpkit.tracking import prepare_store
from tests.support.fake_trainer import ORDERLY, arm

LAUNCH = """
import sys
sys.path.insert(0, {here!r})
from alpkit.config import expand, load_ablation
from alpkit.launch import Options, Stepped, run_grid

def tell(event):
    if isinstance(event, Stepped):
        print(event.cell_id, event.step, flush=True)

if __name__ == "__main__":
    options = Options(
        root={root!r}, tracking_uri={uri!r}, jobs=2, trainer="tests.support.fake_trainer:train_cell"
    )
    options = Options(**{{**options.__dict__, "root": __import__("pathlib").Path({root!r})}})
    try:
        run_grid(expand(load_ablation({file!r})), options, tell)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture(scope="module")
def crashed(make_grid, options):
    """One launch with every way to fail in it, on two workers."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    grid = make_grid(
        "crashes",
        [arm("segv"), arm("raise"), ORDERLY, arm("exit"), arm("killed-from-outside"), arm("sleep")],
    )
    ids = {cell.arm: cell.cell_id for cell in grid.cells}
    folder = options().root / "runs" / "crashes"

    def kill(event):
        if isinstance(event, Stepped) and event.cell_id == ids["sleep"] and event.step == 2:
            os.kill(process(folder / ids["sleep"])["pid"], signal.SIGKILL)

    outcome = run_grid(grid, options(jobs=2), kill)
    return folder, {record.arm: record for record in outcome.records}, outcome


def process(folder: Path):
    return json.loads((folder / "process.json").read_text())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie answers signals too.
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def test_a_crash_costs_its_own_cell_only(crashed):
    _, records, _ = crashed
    assert {name: record.state for name, record in records.items()} == {
        "segv": "failed",
        "raise": "failed",
        "orderly": "finished",
        "exit": "failed",
        "killed-from-outside": "finished",
        "sleep": "failed",
    }


def test_the_cause_of_death_is_named(crashed):
    _, records, _ = crashed
    assert records["segv"].error == "the worker process was ended by SIGSEGV, signal 11"
    assert records["sleep"].error == (
        "the worker process was ended by SIGKILL, signal 9 (often: out of memory)"
    )
    assert records["exit"].error == (
        "the worker process ended with exit code 7, without a Python exception"
    )
    lines = records["raise"].error.splitlines()
    assert lines[0] == "ValueError: the third step is wrong"
    assert any("fake_trainer.py" in line for line in lines)


def test_no_metric_is_lost_with_a_crashed_worker(crashed, options):
    _, records, outcome = crashed
    client = prepare_store(options().tracking_uri).client
    for name in ("segv", "exit", "sleep", "raise"):
        steps = client.get_metric_history(records[name].run_id, "reward/mean")
        assert [m.step for m in steps] == [1, 2], name
        assert client.get_run(records[name].run_id).info.status == "FAILED"
    assert client.get_run(records["orderly"].run_id).info.status == "FINISHED"
    assert client.get_run(outcome.parent_run_id).info.status == "FAILED"


def test_a_cells_log_has_all_of_its_output_and_the_terminal_none(crashed, capfd):
    folder, records, _ = crashed
    log = (folder / records["raise"].cell_id / "log.txt").read_text()
    for line in ("this is stdout", "this is stderr", "this is C", "alpkit.fake: this is logging"):
        assert line in log
    assert "ValueError: the third step is wrong" in log
    assert capfd.readouterr().out == ""


def test_workers_persist_and_each_has_one_thread_and_a_core(crashed):
    folder, records, _ = crashed
    pids = [process(folder / record.cell_id)["pid"] for record in records.values()]
    # Three crashes, so five workers at most for six cells, and a survivor worked twice.
    assert len(set(pids)) < len(pids)
    assert os.getpid() not in pids
    leases = [process(folder / record.cell_id)["env"] for record in records.values()]
    assert {lease["OMP_NUM_THREADS"] for lease in leases} == {"1"}
    assert {lease["VLLM_CPU_OMP_THREADS_BIND"] for lease in leases} <= {str(c) for c in cores()}
    assert {lease["CUDA_VISIBLE_DEVICES"] for lease in leases} == {None}
    assert not any(alive(pid) for pid in pids)


def test_the_number_of_jobs_is_that_of_gpus_else_of_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-abc")
    assert Processes().jobs == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Processes().jobs == len(cores())
    assert Processes(jobs=5).jobs == 5


def test_a_worker_sees_one_gpu_and_more_workers_share_them(make_grid, options, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-abc")
    # They wait at step 3, each in its worker, until all three have been seen.
    grid = make_grid("gpus", [arm("sleep")], seeds=(0, 1, 2))
    folder, seen = options().root / "runs" / "gpus", {}

    def listen(event):
        if isinstance(event, Stepped) and event.step == 2:
            lease = process(folder / event.cell_id)
            seen[lease["pid"]] = lease["env"]["CUDA_VISIBLE_DEVICES"]
            if len(seen) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, options(jobs=3), listen)
    assert sorted(seen.values()) == ["3", "3", "GPU-abc"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,GPU-abc"


def test_fail_fast_kills_the_running_and_starts_no_more(make_grid, options):
    grid = make_grid("fast-processes", [arm("sleep"), arm("raise-later"), ORDERLY])
    outcome = run_grid(grid, options(jobs=2, fail_fast=True))
    assert {r.arm: r.state for r in outcome.records} == {
        "sleep": "killed",
        "raise-later": "failed",
        "orderly": "pending",
    }
    pid = process(outcome.folder / outcome.records[0].cell_id)["pid"]
    assert not alive(pid)


def await_file(path: Path, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def start(place, options, file):
    here = str(Path(__file__).parents[2])
    script = place / "launch.py"
    script.write_text(
        LAUNCH.format(here=here, root=str(place), uri=options().tracking_uri, file=str(file))
    )
    child = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and a launch that inherits that keeps it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    seen = set()
    while len(seen) < 2:  # both cells have logged step 2 and sleep, or are about to
        line = child.stdout.readline()
        assert line, "the launch ended early"
        if line.split()[1] == "2":
            seen.add(line.split()[0])
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_workers_and_marks_cells_killed(make_grid, options, place, number):
    name = f"stopped-{number.name.lower()}"
    make_grid(name, [arm("sleep")], seeds=(0, 1))
    child = start(place, options, place / f"{name}.yaml")
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode == 130
    record = read_grid(place / "runs" / name)
    assert [c.state for c in record.cells] == ["killed", "killed"]
    assert [c.state for c in record.manifest.cells] == ["killed", "killed"]
    client = prepare_store(options().tracking_uri).client
    for cell in record.cells:
        assert client.get_run(cell.run_id).info.status == "KILLED"
        history = client.get_metric_history(cell.run_id, "reward/mean")
        assert [m.step for m in history] == [1, 2]
        assert not alive(process(record.folder / cell.cell_id)["pid"])
    assert client.get_run(record.parent_run_id).info.status == "KILLED"


def test_no_worker_outlives_a_killed_parent_and_the_grid_goes_on(make_grid, options, place):
    grid = make_grid("orphaned", [arm("sleep")], seeds=(0, 1))
    child = start(place, options, place / "orphaned.yaml")
    record = read_grid(place / "runs" / "orphaned")
    for cell in record.cells:  # step 2 is logged before its checkpoint is written
        await_file(record.folder / cell.cell_id / "checkpoint" / "step")
    pids = [process(record.folder / c.cell_id)["pid"] for c in record.cells]
    assert all(alive(pid) for pid in pids)
    child.kill()
    child.communicate()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)
    assert [c.state for c in read_grid(record.folder).cells] == ["running", "running"]
    (record.folder / "fixed").touch()
    outcome = run_grid(grid, options(launcher="inline"))
    assert [r.state for r in outcome.records] == ["finished", "finished"]
    for cell in outcome.records:
        assert (outcome.folder / cell.cell_id / "attempts").read_text().split() == ["None", "2"]
    client = prepare_store(options().tracking_uri).client
    history = client.get_metric_history(outcome.records[0].run_id, "reward/mean")
    assert [m.step for m in history] == [1, 2, 3, 4, 5, 6]
