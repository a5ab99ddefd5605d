"""A cell's metrics: an always-on JSONL file, and MLflow beside it, buffered and without holes.

The process that trains writes the file; the parent, which hears every step, writes the store: one
writer for SQLite, and no import of mlflow in workers. Not here: which keys exist (`alpkit.metrics`).
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from alpkit.errors import TrackingError
from alpkit.metrics import check_keys
from alpkit.runs.states import write_text
from alpkit.tracking.store import STEP_TAG, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_FILE: Final = "metrics.jsonl"

OnStep = Callable[[int, Mapping[str, float]], None]

_FLUSH_SECONDS: Final = 10.0
_FLUSH_STEPS: Final = 25
_BATCH: Final = 1000  # MLflow's limit on metrics in one call
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What the trainer is given: `log` once per step, `rewind` once when it resumes."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one step's metrics; non-finite values become gaps."""

    def rewind(self, step: int | None) -> None:
        """Forget every step after `step` (None: all of them): training goes on from there."""


class MlflowSink:
    """One run's metrics into MLflow, buffered; what the store already holds is not sent twice.

    A failed write keeps its buffer and is tried again with the next; what is still unsent at
    `flush` raises a `TrackingError`, because a log with holes is worse than a stop.
    """

    def __init__(self, client: "MlflowClient", uri: str, run_id: str) -> None:
        self._client, self._uri, self._run_id = client, uri, run_id
        with store_errors(uri):
            tag = client.get_run(run_id).data.tags.get(STEP_TAG)
        self.sent = int(tag) if tag is not None else -1
        self._steps: list[tuple[int, int, dict[str, float]]] = []
        self._flushed = time.monotonic()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take one step; flushes every 25 steps or 10 seconds."""
        if step <= self.sent:
            return
        self._steps.append((step, time.time_ns() // 1_000_000, dict(metrics)))
        due = time.monotonic() - self._flushed >= _FLUSH_SECONDS
        if due or len(self._steps) % _FLUSH_STEPS == 0:
            try:
                self._send()
            except TrackingError as error:
                _log.warning("metrics up to step %d wait to be sent again: %s", step, error)

    def flush(self, attempts: int = 3) -> None:
        """Send everything, trying again twice before giving up."""
        for left in reversed(range(attempts)):
            try:
                return self._send()
            except TrackingError:
                if not left:
                    raise
                time.sleep(1.0)

    def _send(self) -> None:
        from mlflow.entities import Metric, RunTag

        self._flushed = time.monotonic()
        while self._steps:
            count, size = 0, 0
            for _, _, metrics in self._steps:
                if count and size + len(metrics) > _BATCH:
                    break
                count, size = count + 1, size + len(metrics)
            rows = [
                Metric(key, value, at, step)
                for step, at, metrics in self._steps[:count]
                for key, value in metrics.items()
            ]
            last = self._steps[count - 1][0]
            with store_errors(self._uri):
                self._client.log_batch(self._run_id, rows, tags=[RunTag(STEP_TAG, str(last))])
            self.sent = last
            del self._steps[:count]


class CellTracker:
    """A cell's `Tracker`: a line of JSONL per step, and a listener that passes the step on."""

    def __init__(self, folder: Path, *, on_step: OnStep | None = None) -> None:
        self._path = folder / METRICS_FILE
        self._on_step = on_step
        folder.mkdir(parents=True, exist_ok=True)
        self._last = max((step for step, _ in read_steps(self._path)), default=-1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one step's metrics under keys of the closed list; non-finite values become gaps."""
        check_keys(metrics)
        if step <= self._last:
            raise TrackingError(
                f"step {step} was logged after step {self._last}",
                where=str(self._path),
                why="every step has one line",
                fix="call rewind(step) when training resumes from an earlier step",
            )
        values = {key: float(value) for key, value in metrics.items()}
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        line = {"step": step, **{key: finite.get(key) for key in values}}
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
        self._last = step
        if self._on_step is not None:
            self._on_step(step, finite)

    def rewind(self, step: int | None) -> None:
        """Drop the lines after `step` (None: all of them), and what a kill left half-written."""
        last = -1 if step is None else step
        kept = [(at, values) for at, values in read_steps(self._path) if at <= last]
        if self._path.exists():
            lines = (json.dumps({"step": at, **values}) + "\n" for at, values in kept)
            write_text(self._path, "".join(lines))
        self._last = kept[-1][0] if kept else -1


def read_steps(path: Path) -> list[tuple[int, dict[str, float | None]]]:
    """Read `metrics.jsonl`; the half line that a killed process leaves at the end is skipped."""
    if not path.is_file():
        return []
    steps = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            steps.append((int(values.pop("step")), values))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number < len(lines):
                raise TrackingError(
                    "not a line of metrics",
                    where=f"{path}:{number}",
                    why=line[:80],
                    fix="restore the file, or delete the cell's folder to run it again",
                ) from error
    return steps


def backfill(folder: Path, sink: MlflowSink) -> None:
    """Send what the folder's JSONL holds beyond the store: after a kill, or into a new store."""
    for step, values in read_steps(folder / METRICS_FILE):
        sink.add(step, {key: value for key, value in values.items() if value is not None})
    sink.flush()
