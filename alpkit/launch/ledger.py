"""Write the state of a running grid, on disk and in the store; only the parent process does.

Turns a launcher's events into `cell.json`, `grid.json`, metrics and statuses of runs. A store that
stops answering does not stop the grid: what it refused is sent again at the end.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, assert_never

from alpkit.errors import TrackingError
from alpkit.launch.base import Ended, Event, OnEvent, Started, Stepped
from alpkit.runs.folder import GridFolder
from alpkit.runs.spike_log import scan_spikes, spike_table, spike_tags
from alpkit.runs.states import CellRecord, Manifest, now, write_cell, write_grid
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
        manifest: Manifest,
        records: Mapping[str, CellRecord],
        retired: tuple[CellRecord, ...],
        store: Store,
    ) -> None:
        self.folder, self.manifest, self.retired = folder, manifest, retired
        self.records = dict(records)
        self._store = store
        self._sinks: dict[str, MlflowSink] = {}
        self._refused_statuses: dict[str, RunStatus] = {}
        self._refused_spikes: dict[str, CellRecord] = {}
        self._written: dict[str, float] = {}

    def write_manifest(self) -> None:
        """Write `grid.json`."""
        write_grid(self.folder, self.manifest, list(self.records.values()), self.retired)

    def listener(self, on_event: OnEvent) -> OnEvent:
        """Give the launcher's listener: write first, then show."""

        def listen(event: Event) -> None:
            self._apply(event)
            on_event(event)

        return listen

    def close(self, status: RunStatus) -> None:
        """End the parent run, and send what the store refused so far; raises if it still does."""
        cells = self.records.values()
        finished = sum(cell.state == "finished" for cell in cells)
        parent = self.manifest.parent_run_id
        for sink in self._sinks.values():
            sink.flush()
        for cell in list(self._refused_spikes.values()):
            self._log_spikes(cell)
        for run_id, refused in self._refused_statuses.items():
            self._store.set_status(run_id, refused)
        self._store.log_files(parent, GridFolder(self.folder).manifest)
        self._store.set_tags(parent, {"alpkit.progress": f"{finished}/{len(cells)} finished"})
        self._store.set_status(parent, status)

    def _apply(self, event: Event) -> None:
        cell = self.records[event.cell_id]
        match event:
            case Started():
                cell = replace(cell, state="running", started=now(), ended=None, error=None)
                self._write_state(cell)
                self._set_status(cell.run_id, "RUNNING")
            case Stepped():
                self.records[cell.cell_id] = replace(cell, steps_done=event.step)
                if time.monotonic() - self._written.get(cell.cell_id, 0.0) > _WRITE_SECONDS:
                    self._write_state(self.records[cell.cell_id])
                self._sink(cell).add(event.step, event.metrics)
            case Ended():
                cell = replace(cell, state=event.state, ended=now(), error=event.error)
                self._write_state(cell)
                self._flush_metrics(cell)
                self._try_spikes(cell)
                self._set_status(cell.run_id, _STATUS[event.state])
            case _:
                assert_never(event)

    def _write_state(self, cell: CellRecord) -> None:
        changed = self.records[cell.cell_id].state != cell.state
        self.records[cell.cell_id] = cell
        self._written[cell.cell_id] = time.monotonic()
        write_cell(self.folder / cell.cell_id, cell)
        if changed:
            self.write_manifest()

    def _set_status(self, run_id: str, status: RunStatus) -> None:
        try:
            self._store.set_status(run_id, status)
            self._refused_statuses.pop(run_id, None)
        except TrackingError as error:
            self._refused_statuses[run_id] = status
            _log.warning("run %s is %s, which the store has yet to hear: %s", run_id, status, error)

    def _sink(self, cell: CellRecord) -> MlflowSink:
        if cell.cell_id not in self._sinks:
            self._sinks[cell.cell_id] = MlflowSink(self._store.client, self._store.uri, cell.run_id)
        return self._sinks[cell.cell_id]

    def _flush_metrics(self, cell: CellRecord) -> None:
        """Send the cell's last steps; what the store refuses is sent by `close`, or raises there."""
        try:
            self._sink(cell).flush()
            del self._sinks[cell.cell_id]
        except TrackingError as error:
            _log.warning("%s has metrics that the store lacks so far: %s", cell.cell_id, error)

    def _try_spikes(self, cell: CellRecord) -> None:
        """Log the cell's spikes; what the store refuses is logged by `close`, or raises there."""
        try:
            self._log_spikes(cell)
        except TrackingError as error:
            self._refused_spikes[cell.cell_id] = cell
            _log.warning("%s has spikes that the store lacks so far: %s", cell.cell_id, error)

    def _log_spikes(self, cell: CellRecord) -> None:
        """Log the cell's spikes as tags that count them and a table, in place of an earlier attempt's."""
        spikes, faults = scan_spikes(self.folder / cell.cell_id)
        for fault in faults:
            _log.warning("the store lacks a spike: %s: %s", fault.place, fault.reason)
        self._store.set_tags(cell.run_id, spike_tags(spikes))
        self._store.log_table(cell.run_id, *spike_table(spikes), "spikes.json")
        self._refused_spikes.pop(cell.cell_id, None)
