"""A cell's metrics into MLflow, buffered and without holes.

The process that trains writes a file (`alpkit.runs.steps`); the parent, which hears every step, writes
the store: one writer for SQLite, and no import of mlflow in workers.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from alpkit.config.tracking import ALL, tracked
from alpkit.errors import TrackingError
from alpkit.runs.steps import scan_steps
from alpkit.tracking.address import masked
from alpkit.tracking.refusals import store_errors
from alpkit.tracking.store import STEP_TAG, Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

_FLUSH_STEPS: Final = 25
_log = logging.getLogger(__name__)


class MlflowSink:
    """One run's metrics into MLflow, buffered; what the store already holds is not sent twice.

    A failed write keeps its buffer and is tried again with the next; what is still unsent at
    `flush` raises a `TrackingError`, because a log with holes is worse than a stop.
    """

    def __init__(
        self,
        client: "MlflowClient",
        uri: str,
        run_id: str,
        *,
        flush_seconds: float = 10.0,
        batch: int = 1000,
        metrics: tuple[str, ...] = (ALL,),
    ) -> None:
        """Flush every `flush_seconds`; `batch` is MLflow's limit on metrics in one call.

        `metrics`: patterns of the keys that are sent (`tracking.metrics`).
        """
        self._client, self._uri, self._run_id = client, uri, run_id
        self._flush_seconds, self._batch, self._metrics = flush_seconds, batch, metrics
        stored = Store(uri, client).look(run_id)
        if stored is None:
            raise TrackingError(
                f"run {run_id} is not in the tracking store",
                where=masked(uri),
                why="it was deleted there",
                fix="start the same command again: it makes a new run from the folder",
            )
        self.sent = self._last = stored.last_step
        self._steps: list[tuple[int, int, dict[str, float]]] = []
        self._flushed = time.monotonic()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take one step; flushes every 25 steps, or when the time is up."""
        if step <= self._last:
            return
        self._last = step
        taken = {key: value for key, value in metrics.items() if tracked(self._metrics, key)}
        self._steps.append((step, time.time_ns() // 1_000_000, taken))
        due = time.monotonic() - self._flushed >= self._flush_seconds
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
                if count and size + len(metrics) > self._batch:
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


def backfill(folder: Path, sink: MlflowSink) -> None:
    """Send what the run's own file holds beyond the store: after a kill, or into a new store."""
    for step, values in scan_steps(folder).rows:
        sink.add(step, {key: value for key, value in values.items() if value is not None})
    sink.flush()
