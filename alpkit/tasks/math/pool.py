"""Grade in several processes, and kill one that is past a check's deadline.

sympy can run for ever on an answer that a policy makes up, in C code that no exception reaches, and
math-verify's own timeouts use SIGALRM, which fails outside the main thread and then scores 0 without a word.
A process that is killed costs its deadline and a new start, nothing else.

Usage: `Pool(deadline=5.0).run([{"gold": "4", "answer": "2"}])`.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, TypedDict, cast

from alpkit.errors import PrerequisiteError

_MOST = 4
"""Processes at most: a check takes milliseconds."""
_CHECKS = 3000
"""Checks after which a process is replaced: sympy's caches only grow."""
_START = 120.0
"""Seconds in which a process has to be ready; importing sympy on a busy machine takes several."""

TIMEOUT = {"timeout": True}


class Verdict(TypedDict, total=False):
    """Outcome of a check: one of these keys."""

    right: bool
    fault: str
    error: str
    timeout: bool


class Pool:
    """Grading processes, started when first needed and ended with the pool or with this process."""

    def __init__(self, *, deadline: float, processes: int | None = None) -> None:
        self.deadline = deadline
        self._size = processes or min(_MOST, len(os.sched_getaffinity(0)))
        self._workers: list[_Worker] = []
        # Also runs at the end of the interpreter; workers end with their input in any case.
        weakref.finalize(self, _end, self._workers)

    def run(self, tasks: Sequence[Mapping[str, str]]) -> list[Verdict]:
        """Answer every task: {"right": …}, {"fault": …}, {"error": …}, or {"timeout": True} after the deadline."""
        waiting, results = deque(enumerate(tasks)), [Verdict() for _ in tasks]
        try:
            self._serve(waiting, results)
        except BaseException:
            # An interrupt in between leaves answers on their way that belong to nobody.
            _end(self._workers)
            raise
        return results

    def _serve(
        self, waiting: "deque[tuple[int, Mapping[str, str]]]", results: list[Verdict]
    ) -> None:
        while waiting or any(worker.busy for worker in self._workers):
            while len(self._workers) < min(self._size, len(waiting)):
                self._workers.append(_Worker())
            for worker in self._workers:
                if waiting and worker.ready and not worker.busy:
                    worker.ask(*waiting.popleft(), self.deadline)
            expected = [worker for worker in self._workers if worker.busy or not worker.ready]
            patience = min(worker.until for worker in expected) - time.monotonic()
            spoke = select.select([w.output for w in expected], [], [], max(patience, 0))[0]
            for worker in expected:
                if worker.output in spoke:
                    self._hear(worker, results)
                elif time.monotonic() >= worker.until:
                    self._expire(worker, results)

    def _hear(self, worker: "_Worker", results: list[Verdict]) -> None:
        line = worker.output.readline()
        if not line:
            self._lost(worker, results)
        elif not worker.ready:
            worker.ready = True
        else:
            results[worker.release()] = json.loads(line)
            if worker.checks >= _CHECKS:
                self._drop(worker)

    def _expire(self, worker: "_Worker", results: list[Verdict]) -> None:
        if not worker.ready:
            self._lost(worker, results)
        results[worker.release()] = {"timeout": True}
        self._drop(worker)

    def _lost(self, worker: "_Worker", results: list[Verdict]) -> None:
        """Take note of a process that ended by itself: out of memory, or a crash in C code."""
        if not worker.ready:
            told = worker.last_words()
            self._drop(worker)
            raise PrerequisiteError(
                "the process that grades mathematics does not start",
                where="task",
                why=told,
                fix='pip install "alpkit[tasks]"',
            )
        results[worker.release()] = {"error": "the grading process ended"}
        self._drop(worker)

    def _drop(self, worker: "_Worker") -> None:
        worker.end()
        self._workers.remove(worker)

    def close(self) -> None:
        """End every process; the next `run` starts new ones."""
        _end(self._workers)

    @property
    def pids(self) -> list[int]:
        """List the process ids of the workers that are alive."""
        return [worker.process.pid for worker in self._workers]


class _Worker:
    """One process and the check that it is at."""

    def __init__(self) -> None:
        # A file, because a pipe that nobody reads would stop a library that complains a lot.
        self._complaints = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "alpkit.tasks.math.checker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            # Grading must not use the GPU's or the trainer's threads.
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        self.output = cast(IO[bytes], self.process.stdout)
        self.ready, self.checks = False, 0
        self.until = time.monotonic() + _START
        self._index: int | None = None

    @property
    def busy(self) -> bool:
        return self._index is not None

    def ask(self, index: int, task: Mapping[str, str], deadline: float) -> None:
        self._index, self.until = index, time.monotonic() + deadline
        self.checks += 1
        pipe = cast(IO[bytes], self.process.stdin)
        # A process that has ended closes its output as well, which is where a loss is noticed.
        with suppress(BrokenPipeError):
            pipe.write(json.dumps(dict(task)).encode() + b"\n")
            pipe.flush()

    def release(self) -> int:
        index, self._index = self._index, None
        assert index is not None
        return index

    def last_words(self) -> str:
        self._complaints.seek(0)
        told = self._complaints.read().decode(errors="replace").strip()
        return told.splitlines()[-1] if told else "it said nothing"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._complaints):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def _end(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()
