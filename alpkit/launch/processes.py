"""Run cells in spawned worker processes: one thread or GPU each; a crash ends one cell, and no process is left behind.

The parent waits on every worker's pipe and sentinel at once, and on signals through a pipe of its
own, so that no exception ever arrives in the middle of its bookkeeping.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from alpkit.launch import worker
from alpkit.launch.base import (
    CellTask,
    Ended,
    OnEvent,
    Started,
    Stepped,
    cores,
    on_signals,
    stopped_where,
    visible_gpus,
)

_GRACE_SECONDS = 5.0


@dataclass
class _Worker:
    index: int
    process: SpawnProcess
    conn: Connection
    task: CellTask | None = None
    closed: bool = False
    """Whether its end of the pipe is gone."""


class Processes:
    """The default `Launcher`: `jobs` workers (None: one per GPU, else one per core)."""

    def __init__(self, jobs: int | None = None, *, grace: float = 25.0) -> None:
        """`grace`: seconds that cells have to save a checkpoint after SIGTERM."""
        self.grace = grace
        self._gpus, self._cores = visible_gpus(), cores()
        self.jobs = jobs or len(self._gpus) or len(self._cores)
        self.threads = max(1, len(self._cores) // self.jobs) if self._gpus else 1

    def run(self, tasks: Sequence[CellTask], on_event: OnEvent, *, fail_fast: bool) -> None:
        """Run `tasks`, in order of their start; see `Launcher`."""
        pending = deque(tasks)
        workers: list[_Worker] = []
        grace = _GRACE_SECONDS
        try:
            with _bell() as bell:
                while pending or any(w.task for w in workers):
                    self._hand_out(pending, workers, on_event)
                    waited: list[object] = [bell]
                    waited += [x for w in workers for x in (w.conn, w.process.sentinel)]
                    ready = connection.wait(waited)  # type: ignore[arg-type]
                    if bell in ready:
                        # A batch system warns with SIGTERM and waits; somebody at a terminal does not.
                        grace = self.grace if bell.recv() == signal.SIGTERM else _GRACE_SECONDS
                        raise KeyboardInterrupt
                    for w in list(workers):
                        if w.conn not in ready and w.process.sentinel not in ready:
                            continue
                        if not self._listen(w, workers, on_event) and fail_fast:
                            return
        finally:
            with on_signals(signal.SIG_IGN):
                busy = [w.task for w in workers if w.task]
                _stop(workers, grace)
                for task in busy:
                    on_event(Ended(task.cell_id, "killed", stopped_where(task)))

    def _hand_out(
        self, pending: "deque[CellTask]", workers: list[_Worker], on_event: OnEvent
    ) -> None:
        while pending and len(workers) < min(self.jobs, len(pending) + _busy(workers)):
            taken = {w.index for w in workers}
            workers.append(self._start(min(set(range(self.jobs)) - taken)))
        for w in workers:
            if w.task is None and pending:
                w.task = pending.popleft()
                on_event(Started(w.task.cell_id))
                # A worker that died while idle is noticed by its sentinel, and fails this cell.
                with contextlib.suppress(BrokenPipeError):
                    w.conn.send(w.task)

    def _listen(self, w: _Worker, workers: list[_Worker], on_event: OnEvent) -> bool:
        """Read what a worker has said; False if its cell failed."""
        for message in _received(w):
            if w.task is not None and isinstance(message, worker.Step):
                on_event(Stepped(w.task.cell_id, message.step, message.metrics))
            elif w.task is not None and isinstance(message, worker.Done):
                cell_id, w.task = w.task.cell_id, None
                state = "finished" if message.error is None else "failed"
                on_event(Ended(cell_id, state, message.error))  # type: ignore[arg-type]
                if message.error is not None:
                    return False
        if not w.closed and w.process.is_alive():
            return True
        workers.remove(w)
        code = _reap(w)
        if w.task is not None:
            on_event(Ended(w.task.cell_id, "failed", _cause_of_death(code)))
            return False
        return True

    def _start(self, index: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=True)
        process = context.Process(
            target=worker.main, args=(theirs, self.threads), name=f"alpkit-worker-{index}"
        )
        # The child inherits the environment and a blocked SIGINT from its first instruction on.
        with _environment(self._lease(index)), _blocked_interrupt():
            process.start()
        theirs.close()
        return _Worker(index, process, ours)

    def _lease(self, index: int) -> dict[str, str]:
        """Give the environment of worker `index`: its threads, and its GPU or its core."""
        lease = {"OMP_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "false"}
        if self._gpus:
            return {**lease, "CUDA_VISIBLE_DEVICES": self._gpus[index % len(self._gpus)]}
        # vLLM's CPU build pins its threads; without this every worker would pin to the same core.
        return {**lease, "VLLM_CPU_OMP_THREADS_BIND": str(self._cores[index % len(self._cores)])}


def _received(w: _Worker) -> Iterator[object]:
    """Give the messages that wait, one at a time. What a listener raises is not taken for a broken pipe."""
    while True:
        try:
            if not w.conn.poll():
                return
            message: object = w.conn.recv()
        except (EOFError, OSError):
            w.closed = True
            return
        yield message


def _busy(workers: Sequence[_Worker]) -> int:
    return sum(w.task is not None for w in workers)


def _reap(w: _Worker) -> int | None:
    # The group first: until the leader is reaped, its number cannot belong to anyone else.
    _signal_group(w, signal.SIGKILL)
    w.process.join()
    w.conn.close()
    return w.process.exitcode


def _stop(workers: Sequence[_Worker], grace: float) -> None:
    """End every worker: an idle one by message, a busy one by SIGTERM, and by SIGKILL if it goes on."""
    until = time.monotonic() + grace
    for w in workers:
        if w.task is None:
            with contextlib.suppress(OSError):
                w.conn.send(None)
        else:
            # The worker alone: what it has started (graders, an engine) must last until its step is over.
            pid = w.process.pid
            assert pid is not None
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)
                w.conn.send(None)
    for w in workers:
        connection.wait([w.process.sentinel], timeout=max(0.0, until - time.monotonic()))
        _reap(w)


def _signal_group(w: _Worker, number: signal.Signals) -> None:
    pid = w.process.pid
    assert pid is not None
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # not yet a group of its own, or gone
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _cause_of_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = " (often: out of memory)" if -code == signal.SIGKILL else ""
        return f"the worker process was ended by {name}, signal {-code}{memory}"
    return f"the worker process ended with exit code {code}, without a Python exception"


@contextlib.contextmanager
def _bell() -> Iterator[Connection]:
    """Give a connection that becomes readable when this process is asked to stop."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer, on_signals(lambda number, _frame: writer.send(number)):
        yield reader


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextlib.contextmanager
def _blocked_interrupt() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
