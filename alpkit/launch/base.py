"""The interface of launchers: tasks in, events out, state kept by the caller.

Launchers know nothing of grids or MLflow; they run cells and report. Not here: who writes states,
metrics and statuses (`alpkit.launch.ledger`, in the parent alone).
"""

import importlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, Literal, Protocol, cast

from alpkit.config import RunConfig
from alpkit.runs.folder import RunFolder, step_folders
from alpkit.runs.steps import Tracker

TRAINER: Final = "alpkit.trainer:train_cell"
PROFILED_TRAINER: Final = "alpkit.trainer.profiling:train_cell"
"""The same, with one step of the cell under torch's profiler."""

TrainCell = Callable[[RunConfig, Path, Tracker], None]


@dataclass(frozen=True)
class CellTask:
    """One cell to run: picklable, complete, and naming its trainer by import path."""

    cell_id: str
    config: RunConfig
    folder: Path
    trainer: str = TRAINER


@dataclass(frozen=True)
class Started:
    cell_id: str


@dataclass(frozen=True)
class Stepped:
    """A cell logged a step; `metrics` holds the finite ones."""

    cell_id: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Ended:
    """A cell stopped; `error` opens with one readable line."""

    cell_id: str
    state: Literal["finished", "failed", "killed"]
    error: str | None = None


Event = Started | Stepped | Ended
OnEvent = Callable[[Event], None]


class Launcher(Protocol):
    """Runs cells. Every `Started` is followed by an `Ended`, whatever happens.

    `run` returns when nothing is left to do, and raises `KeyboardInterrupt` after the running cells
    have ended as `killed`. With `fail_fast` the first failure kills the others and starts no more.
    """

    def run(self, tasks: Sequence[CellTask], on_event: OnEvent, *, fail_fast: bool) -> None: ...


def stopped_where(task: CellTask) -> str:
    """Say why a cell is killed, and where it will go on."""
    steps = list(step_folders(RunFolder(task.folder).checkpoints))
    return (
        f"stopped before its end; goes on after step {steps[-1]}"
        if steps
        else "stopped before its end"
    )


def load_trainer(path: str) -> TrainCell:
    """Import `module:function`."""
    module, _, name = path.partition(":")
    return cast(TrainCell, getattr(importlib.import_module(module), name))


def visible_gpus() -> list[str]:
    """List the CUDA devices as CUDA_VISIBLE_DEVICES names them, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    # A driver without a device prints a complaint instead of "GPU 0: …" lines.
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return [str(index) for index in range(count)]


def cores() -> list[int]:
    """List the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextmanager
def on_signals(
    handler: Callable[[int, FrameType | None], object] | Literal[signal.Handlers.SIG_IGN],
) -> Iterator[None]:
    """Handle Ctrl-C, SIGTERM and a closed terminal by `handler`; `nohup` keeps its meaning."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, old in before.items():
        if old is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def raise_interrupt(_number: int, _frame: FrameType | None) -> None:
    """Let SIGTERM end a grid the way that Ctrl-C does."""
    raise KeyboardInterrupt
