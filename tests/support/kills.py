"""A launch that can be killed from outside, or that kills itself in the middle of a write.

    python -m tests.support.kills ROOT FILE URI TRAINER

KILL_IN says in which write (checkpoint, records, metrics, store), KILL_AT at which of them.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from alpkit.config import expand, load_ablation
from alpkit.launch import Options, run_grid
from alpkit.runs.states import read_grid
from alpkit.runs.steps import read_steps
from alpkit.tracking import prepare_store

REPOSITORY = Path(__file__).parents[2]
OUTSIDE = ("worker", "parent", "term", "interrupt")
INSIDE = ("checkpoint", "records", "metrics", "store")
TIMES = ("time/", "memory/", "perf/")


def _dies(real, calls):
    """`real`, whose call number KILL_AT ends the process by SIGKILL when half of it is done."""
    left = [int(os.environ["KILL_AT"])]

    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            calls(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    return call


def train_cell(config, folder, tracker):
    """The real trainer, dying where KILL_IN says."""
    from alpkit.trainer import train_cell as real

    match os.environ.get("KILL_IN"):
        case "checkpoint":
            from alpkit.runs import checkpoint

            checkpoint.torch.save = _dies(
                checkpoint.torch.save, lambda _state, path: Path(path).write_bytes(b"half")
            )
        case "records":
            from alpkit.runs.records import writer

            writer.pq.write_table = _dies(
                writer.pq.write_table, lambda _table, path, **_: Path(path).write_bytes(b"PAR1")
            )
        case "metrics":
            from alpkit.runs import steps

            steps._write = _dies(steps._write, lambda file, data: file.write(data[:40]))
    real(config, folder, tracker)


def main(root, file, uri, trainer):
    if os.environ.get("KILL_IN") == "store":
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        # Between a batch's metrics and its tag.
        SqlAlchemyStore._set_tags = _dies(SqlAlchemyStore._set_tags, lambda *_: None)
    options = Options(root=Path(root), tracking_uri=uri, jobs=2, trainer=trainer)
    try:
        outcome = run_grid(expand(load_ablation(file)), options)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(bool(outcome.failed))


def launch(root, file, uri, trainer, **env):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.kills", str(root), str(file), uri, trainer],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **env},
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=(Path(root) / "stderr.txt").open("a"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def children(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children")
    pids = [int(word) for word in text.read_text().split()] if text.exists() else []
    return [p for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def kill(child, kind, rng):
    match kind:
        case "worker":
            if workers := children(child.pid):
                os.kill(rng.choice(workers), signal.SIGKILL)
        case "parent":
            child.kill()
        case "term":
            child.terminate()
        case "interrupt":
            child.send_signal(signal.SIGINT)


def written(root):
    """Bytes of all metrics: what says that a launch has come to work."""
    return sum(p.stat().st_size for p in Path(root).glob("runs/*/*/metrics.jsonl"))


def kill_once(root, file, uri, trainer, kind, rng, spread):
    """Start the grid and end it by `kind`, up to `spread` seconds after it has come to work."""
    if kind in INSIDE:
        child = launch(root, file, uri, trainer, KILL_IN=kind, KILL_AT=str(rng.randint(1, 4)))
        child.wait(600)
        return
    before = written(root)
    child = launch(root, file, uri, trainer)
    if rng.random() < 0.85:  # else in the middle of its start
        while child.poll() is None and written(root) == before:
            time.sleep(0.01)
    time.sleep(rng.uniform(0, spread))
    kill(child, kind, rng)
    child.wait(600)


def finish(root, file, uri, trainer):
    """The same command again and again; a worker that died with its parent may need a second."""
    for _ in range(2):
        if launch(root, file, uri, trainer).wait(600) == 0:
            return
    raise AssertionError((Path(root) / "stderr.txt").read_text()[-4000:])


def told(root, uri):
    """What a grid says, by arm and seed: its steps in the file and in the store, without times."""
    (folder,) = (path.parent for path in Path(root).glob("runs/*/grid.json"))
    client = prepare_store(uri).client
    grid = read_grid(folder)
    out = {}
    for cell in grid.cells:
        assert cell.state == "finished", cell
        rows = read_steps(folder / cell.cell_id)
        values = {
            (row.step, key): value
            for row in rows
            for key, value in row.metrics.items()
            if not key.startswith(TIMES)
        }
        run = client.get_run(cell.run_id)
        stored = sorted(
            (metric.step, key, metric.value)
            for key in run.data.metrics
            if not key.startswith(TIMES)
            for metric in client.get_metric_history(cell.run_id, key)
        )
        out[cell.arm, cell.seed] = ([row.step for row in rows], values, stored)
    runs = client.search_runs([grid.manifest.experiment_id], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 1 + len(grid.cells)
    return out


def random_source(seed):
    return random.Random(seed)


if __name__ == "__main__":
    main(*sys.argv[1:])
