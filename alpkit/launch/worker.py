"""The worker process of `processes`, which runs the cells that it is sent.

Imports no torch at the top: threads and devices are settled by the environment before it loads.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from alpkit.launch.base import CellTask
from alpkit.launch.cell import failure_text, run_cell
from alpkit.runs.disk import writing
from alpkit.runs.folder import RunFolder
from alpkit.runs.notice import ask_to_stop
from alpkit.runs.states import now
from alpkit.runs.steps import OnStep


class Step(NamedTuple):
    step: int
    metrics: dict[str, float]


class Done(NamedTuple):
    """The cell ended; `error` is None when it finished."""

    error: str | None


def main(conn: Connection, threads: int) -> None:
    """Serve tasks from `conn` until it says None or closes."""
    # A session of its own: a terminal's Ctrl-C is the parent's business, and one signal to the group
    # also ends whatever a cell has started.
    os.setsid()
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    # A step may take long: the trainer saves a checkpoint after it, unless SIGKILL comes first.
    signal.signal(signal.SIGTERM, lambda _number, _frame: ask_to_stop())
    with conn:
        while (task := _receive(conn)) is not None:
            with suppress(BrokenPipeError):
                conn.send(Done(_attempt(task, conn, threads)))


def _receive(conn: Connection) -> CellTask | None:
    try:
        task: CellTask | None = conn.recv()
    except EOFError:
        return None
    return task


def _attempt(task: CellTask, conn: Connection, threads: int) -> str | None:
    def on_step(step: int, metrics: Mapping[str, float]) -> None:
        conn.send(Step(step, dict(metrics)))

    return attempt(task, on_step, threads)


def attempt(task: CellTask, on_step: OnStep, threads: int) -> str | None:
    """Run a cell with this process's output in its log; give the text of its failure, None if it finished."""
    try:
        log_to(RunFolder(task.folder).log)
        _limit_threads(threads)
        run_cell(task, on_step)
    except Exception as error:
        text = failure_text(error)
        # The log may be what has no room: the parent hears of the failure all the same.
        with suppress(OSError):
            sys.stderr.write(text + "\n")
        return text
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
    return None


def _limit_threads(threads: int) -> None:
    # OMP_NUM_THREADS is set already; a torch that reads its own affinity must hear it too.
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def log_to(path: Path) -> None:
    """Send this process's output, C libraries' included, to the end of `path`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING, force=True
    )
    logging.getLogger("alpkit").setLevel(logging.INFO)
    logging.captureWarnings(True)
    with suppress(OSError):
        sys.stderr.write(f"--- {now()} process {os.getpid()}\n")


def _die_with_the_parent() -> None:
    """End this process and its children when the parent is gone, even by SIGKILL."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)
