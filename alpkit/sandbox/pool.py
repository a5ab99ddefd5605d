"""Warm workers, and a pool of them: `run` gives one snippet's outcome, `run_all` many at once.

Usage: `with start() as sandbox: sandbox.run("print(6 * 7)").text`.
"""

import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

from alpkit.errors import AlpkitError
from alpkit.sandbox.command import identity
from alpkit.sandbox.limits import Limits
from alpkit.sandbox.outcome import Outcome

_START_SECONDS: Final = 60.0
"""A machine under full load takes seconds to start an interpreter."""
_GRACE_SECONDS: Final = 30.0
"""Past its own deadline, a worker that says nothing is taken for dead after this long."""
_MOST_WORKERS: Final = 8


class SandboxError(AlpkitError):
    """A sandbox that does not start, or no longer."""

    exit_code = 1


class Worker:
    """One process that runs snippets one after the other; not for several threads at once."""

    def __init__(self, command: Sequence[str], limits: Limits) -> None:
        self._limits = limits
        self._buffer = b""
        # A session of its own: a Ctrl-C in the terminal is the trainer's alone, and the whole of it can be killed.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            bufsize=0,
            start_new_session=True,
            **identity(),  # type: ignore[call-overload]
        )
        if self._answer(_START_SECONDS) is None:
            raise SandboxError(
                "the sandbox does not start",
                where="environment.sandbox",
                why=self.close() or "it said nothing",
                fix="let ordinary users make user namespaces (kernel.unprivileged_userns_clone=1, no AppArmor "
                "profile or container that forbids them), or set environment.sandbox: weak",
            )

    def run(self, code: str) -> Outcome | None:
        """Run one snippet; None where the worker is gone, and with it the snippet's outcome."""
        try:
            self._send(json.dumps({"code": code}).encode() + b"\n")
        except (BrokenPipeError, ValueError):  # it has died, or been closed by another thread
            return None
        told = self._answer(self._limits.wall_seconds + _GRACE_SECONDS)
        if told is None:
            return None
        kind = told["kind"]
        if kind == "broken":
            raise SandboxError(
                "the sandbox cannot set up a snippet's surroundings",
                where="environment.sandbox",
                why=told["status"],
                fix="see whether this machine lets an ordinary user mount a tmpfs in namespaces of their own, or set "
                "environment.sandbox: weak",
            )
        return Outcome(
            kind, told["output"], told["status"], told["seconds"], self._limits.words(kind)
        )

    def close(self) -> str:
        """End the worker and everything in it; gives the last line that it complained with."""
        if self._process.poll() is None:
            # Only its own session: the process has not been waited for, so that its number is still its own.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stderr is not None
        lines = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return lines[-1] if lines else ""

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        while data:
            data = data[self._process.stdin.write(data) or 0 :]

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """Read one line; None where it ends or stays silent for too long."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return None
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told


class Sandbox:
    """A pool of warm workers, started when they are first needed; safe to use from several threads."""

    def __init__(
        self, command: Sequence[str], limits: Limits, *, workers: int | None = None
    ) -> None:
        self.limits = limits
        self.workers = workers or min(_MOST_WORKERS, os.cpu_count() or 1)
        self._command = list(command)
        self._idle: SimpleQueue[Worker | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._live: set[Worker] = set()
        self._closed = False
        for _ in range(self.workers):
            self._idle.put(None)  # a place for a worker that has not been started

    def run(self, code: str) -> Outcome:
        """Run one snippet in surroundings of its own; never raises for what the code does."""
        if self._closed:
            raise SandboxError("the sandbox is closed", fix="start another one")
        worker = self._idle.get()
        try:
            worker = worker or self._start()
            outcome = worker.run(code)
            if outcome is None:
                self._retire(worker)
                worker = None
                outcome = Outcome("lost")
            return outcome
        finally:
            self._idle.put(worker)

    def run_all(self, codes: Sequence[str]) -> list[Outcome]:
        """Run many snippets, as many at once as there are workers; outcomes in the order of the snippets."""
        if len(codes) < 2:
            return [self.run(code) for code in codes]
        with ThreadPoolExecutor(min(self.workers, len(codes))) as threads:
            return list(threads.map(self.run, codes))

    def close(self) -> None:
        """End all workers; what still runs ends as lost."""
        with self._lock:
            self._closed = True
            live, self._live = self._live, set()
        for worker in live:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> Worker:
        worker = Worker(self._command, self.limits)
        with self._lock:
            self._live.add(worker)
        return worker

    def _retire(self, worker: Worker) -> None:
        with self._lock:
            self._live.discard(worker)
        worker.close()
