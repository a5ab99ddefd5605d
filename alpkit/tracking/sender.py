"""Sends to the store in a thread of its own, so that nobody who trains waits for one.

Steps wait in a short queue per run; what the store refuses is read from the run's own `metrics.jsonl`
when it answers again, so an outage costs no memory and loses nothing. Everything else that is to be said
(statuses, tables) waits as a job that may be done twice.

    sender = Sender(store)
    sender.step(run_id, folder, 1, {"reward/mean": 0.5})
    sender.post("status", lambda: store.set_status(run_id, "FINISHED"))
    arrived = sender.close(patience=30.0)
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from alpkit.config.tracking import ALL
from alpkit.errors import TrackingError
from alpkit.runs.steps import scan_steps
from alpkit.tracking.sink import MlflowSink
from alpkit.tracking.store import Store

Job = Callable[[], None]

_QUEUE: Final = 500
"""Steps of a run that wait in memory; beyond them its file is read."""
_WAKE: Final = 25
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 15.0
_log = logging.getLogger(__name__)


@dataclass
class _Outbox:
    """One run's steps on their way to the store."""

    run_id: str
    folder: Path
    steps: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    behind: bool = False
    """Whether the store lacks steps that are in the file alone."""
    sink: MlflowSink | None = None

    @property
    def waiting(self) -> bool:
        return self.behind or bool(self.steps)


class Sender:
    """The one who talks to the store while a grid runs."""

    def __init__(
        self, store: Store, *, flush_seconds: float = 10.0, metrics: tuple[str, ...] = (ALL,)
    ) -> None:
        """Send every `flush_seconds`, and whenever 25 steps of a run or a job are waiting.

        `metrics`: patterns of the keys that are sent.
        """
        self._store, self._flush_seconds, self._metrics = store, flush_seconds, metrics
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = self._abandoned = False
        self._outboxes: dict[str, _Outbox] = {}
        self._jobs: dict[Hashable, Job] = {}
        self._refused: TrackingError | None = None
        self._succeeded = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def step(self, run_id: str, folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Take one step of a run whose own file in `folder` holds it already; never waits."""
        with self._lock:
            outbox = self._outboxes.setdefault(run_id, _Outbox(run_id, folder))
            if outbox.behind:
                return
            if len(outbox.steps) >= _QUEUE:
                outbox.steps.clear()
                outbox.behind = True
                return
            outbox.steps.append((step, dict(metrics)))
            due = len(outbox.steps) % _WAKE == 0
        if due:
            self._wake.set()

    def post(self, key: Hashable, job: Job) -> None:
        """Have `job` done, in place of one of the same key that still waits; it may be tried again."""
        with self._lock:
            self._jobs.pop(key, None)
            self._jobs[key] = job
        self._wake.set()

    def close(self, patience: float, *, at_most: float = float("inf")) -> TrackingError | None:
        """Send what waits and end the thread; give the refusal that was in the way, None if all arrived.

        Gives up `patience` seconds after the last success, `at_most` seconds from now in any case.
        """
        started = time.monotonic()
        self._closing, self._succeeded = True, started
        self._wake.set()
        while self._thread.is_alive():
            now = time.monotonic()
            if now - self._succeeded > patience or now - started > at_most:
                self._abandoned = True
                self._wake.set()
                self._thread.join(0.2)
                break
            self._thread.join(0.05)
        if not self._waiting():
            return None
        return self._refused or TrackingError(
            "the tracking store did not take everything in time",
            fix="send the rest: alpkit sync RUN",
        )

    def _waiting(self) -> bool:
        with self._lock:
            return bool(self._jobs) or any(box.waiting for box in self._outboxes.values())

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._abandoned:
            if not (self._closing and self._waiting()):
                self._wake.wait(self._flush_seconds)
            self._wake.clear()
            try:
                self._send_all()
            except TrackingError as error:
                self._told(error)
                # Who closes is waiting: then the next attempt comes soon.
                self._rest(_FIRST_PAUSE if self._closing else pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if self._refused is not None:
                _log.warning("the tracking store answers again and has all that it lacked")
            self._refused, pause = None, _FIRST_PAUSE
            if self._closing and not self._waiting():
                return

    def _rest(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        closing = self._closing
        while time.monotonic() < ends and not self._abandoned and self._closing == closing:
            time.sleep(0.05)

    def _told(self, error: TrackingError) -> None:
        if self._refused is None:
            _log.warning(
                "training goes on; what the store lacks is sent when it answers: %s", error
            )
        self._refused = error

    def _send_all(self) -> None:
        with self._lock:
            outboxes = list(self._outboxes.values())
        for outbox in outboxes:
            if outbox.waiting and not self._abandoned:
                self._send(outbox)
                self._succeeded = time.monotonic()
        while not self._abandoned:
            with self._lock:
                key, job = next(iter(self._jobs.items()), (None, None))
            if job is None:
                return
            _within_words(job)
            self._succeeded = time.monotonic()
            with self._lock:
                if self._jobs.get(key) is job:
                    del self._jobs[key]

    def _send(self, outbox: _Outbox) -> None:
        with self._lock:
            steps, behind = list(outbox.steps), outbox.behind
            outbox.steps.clear()
            outbox.behind = False
        try:
            # After a failure the store is asked what it holds: a batch may have arrived all the same.
            outbox.sink = outbox.sink or MlflowSink(
                self._store.client, self._store.uri, outbox.run_id, metrics=self._metrics
            )
            if behind:
                for step, values in scan_steps(outbox.folder).rows:
                    outbox.sink.add(step, {k: v for k, v in values.items() if v is not None})
            for step, metrics in steps:
                outbox.sink.add(step, metrics)
            outbox.sink.flush(attempts=1)
        except BaseException:
            with self._lock:
                outbox.steps.clear()
                outbox.behind, outbox.sink = True, None
            raise


def _within_words(job: Job) -> None:
    """Do a job; whatever it raises is a refusal, for a thread that dies would be silent."""
    try:
        job()
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(
            "the tracking store could not be told", why=f"{type(error).__name__}: {error}"[:300]
        ) from error
