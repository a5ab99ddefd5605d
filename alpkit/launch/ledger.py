"""The state of a running grid, on disk and in the store: written by the parent process alone.

Turns a launcher's events into `cell.json`, `grid.json`, metrics and statuses of runs. A store that
stops answering does not stop the grid: what could not be said is said again at the end.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, assert_never

from alpkit.errors import TrackingError
from alpkit.launch.base import Ended, Event, OnEvent, Started, Stepped
from alpkit.runs.states import CellRecord, now, write_cell, write_grid
from alpkit.tracking import MlflowSink, Store
from alpkit.tracking.store import RunStatus

_STATUS: Final[Mapping[Literal["finished", "failed", "killed"], RunStatus]] = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "killed": "KILLED",
}
# Steps of tiny models take milliseconds; a state file per step would be most of their disk traffic.
_WRITE_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


class Ledger:
    """Keeps every cell's record current and passes events on to the screen."""

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        records: Mapping[str, CellRecord],
        retired: tuple[CellRecord, ...],
        store: Store,
    ) -> None:
        self.folder, self.manifest, self.retired = folder, manifest, retired
        self.records = dict(records)
        self._store = store
        self._sinks: dict[str, MlflowSink] = {}
        self._unsaid: dict[str, RunStatus] = {}
        self._untold: dict[str, CellRecord] = {}
        self._written: dict[str, float] = {}

    def save(self) -> None:
        """Write `grid.json`."""
        write_grid(self.folder, self.manifest, list(self.records.values()), self.retired)

    def listener(self, on_event: OnEvent) -> OnEvent:
        """Give the launcher's listener: book first, then show."""

        def listen(event: Event) -> None:
            self._book(event)
            on_event(event)

        return listen

    def close(self, status: RunStatus) -> None:
        """End the parent run, and say what the store has not heard yet; raises if it still refuses."""
        cells = self.records.values()
        finished = sum(cell.state == "finished" for cell in cells)
        parent = str(self.manifest["parent_run_id"])
        for sink in self._sinks.values():
            sink.flush()
        for cell in list(self._untold.values()):
            self._put_spikes(cell)
        for run_id, unsaid in self._unsaid.items():
            self._store.set_status(run_id, unsaid)
        self._store.log_files(parent, self.folder / "grid.json")
        self._store.set_tags(parent, {"alpkit.progress": f"{finished}/{len(cells)} finished"})
        self._store.set_status(parent, status)

    def _book(self, event: Event) -> None:
        cell = self.records[event.cell_id]
        match event:
            case Started():
                cell = replace(cell, state="running", started=now(), ended=None, error=None)
                self._put(cell)
                self._say(cell.run_id, "RUNNING")
            case Stepped():
                self.records[cell.cell_id] = replace(cell, steps_done=event.step)
                if time.monotonic() - self._written.get(cell.cell_id, 0.0) > _WRITE_SECONDS:
                    self._put(self.records[cell.cell_id])
                self._sink(cell).add(event.step, event.metrics)
            case Ended():
                cell = replace(cell, state=event.state, ended=now(), error=event.error)
                self._put(cell)
                self._send(cell)
                self._tell_spikes(cell)
                self._say(cell.run_id, _STATUS[event.state])
            case _:
                assert_never(event)

    def _put(self, cell: CellRecord) -> None:
        changed = self.records[cell.cell_id].state != cell.state
        self.records[cell.cell_id] = cell
        self._written[cell.cell_id] = time.monotonic()
        write_cell(self.folder / cell.cell_id, cell)
        if changed:
            self.save()

    def _say(self, run_id: str, status: RunStatus) -> None:
        try:
            self._store.set_status(run_id, status)
            self._unsaid.pop(run_id, None)
        except TrackingError as error:
            self._unsaid[run_id] = status
            _log.warning("run %s is %s, which the store has yet to hear: %s", run_id, status, error)

    def _sink(self, cell: CellRecord) -> MlflowSink:
        if cell.cell_id not in self._sinks:
            self._sinks[cell.cell_id] = MlflowSink(self._store.client, self._store.uri, cell.run_id)
        return self._sinks[cell.cell_id]

    def _send(self, cell: CellRecord) -> None:
        """Send the cell's last steps; what the store refuses is sent by `close`, or raises there."""
        try:
            self._sink(cell).flush()
            del self._sinks[cell.cell_id]
        except TrackingError as error:
            _log.warning("%s has metrics that the store lacks so far: %s", cell.cell_id, error)

    def _tell_spikes(self, cell: CellRecord) -> None:
        """The cell's spikes as a tag that counts them and a table; a folder that has them is the source."""
        try:
            self._put_spikes(cell)
        except TrackingError as error:
            self._untold[cell.cell_id] = cell
            _log.warning("%s has spikes that the store lacks so far: %s", cell.cell_id, error)

    def _put_spikes(self, cell: CellRecord) -> None:
        """Raises what the store raises. A cell without spikes takes back what an earlier attempt said."""
        from alpkit.trainer.spike_watch import count, read, table

        spikes = read(self.folder / cell.cell_id)
        self._store.set_tags(cell.run_id, count(spikes))
        self._store.log_table(cell.run_id, *table(spikes), "spikes.json")
        self._untold.pop(cell.cell_id, None)
