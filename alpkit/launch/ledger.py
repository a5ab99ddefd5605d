"""Write the state of a running grid, on disk and in the store; only the parent process does.

Turns a launcher's events into `cell.json`, `grid.json`, metrics and statuses of runs. Neither a store
that does not answer nor a disk without room stops the cells: a thread sends to the store
(`alpkit.tracking.Sender`), and a state that cannot be written is written as soon as there is room.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, assert_never

from alpkit.errors import TrackingError
from alpkit.launch.base import Ended, Event, OnEvent, Started, Stepped
from alpkit.launch.publish import STATUS, end_parent, log_spikes, publish
from alpkit.runs.states import CellRecord, Manifest, now, write_cell, write_grid
from alpkit.tracking import Sender, Store, prepare_store
from alpkit.tracking.store import RunStatus

# Steps of tiny models take milliseconds; a state file per step would be most of their disk traffic.
_WRITE_SECONDS: Final = 1.0
_PATIENCE: Final = 30.0
"""Seconds without a success after which the end of a grid waits for its store no longer."""
_IN_A_HURRY: Final = 3.0
"""Seconds that an interrupted grid gives its store."""
_log = logging.getLogger(__name__)


class Ledger:
    """Keeps every cell's record current and passes events on to the screen."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        records: Mapping[str, CellRecord],
        retired: tuple[CellRecord, ...],
        store: Store | None,
        *,
        tracking_uri: str | None = None,
    ) -> None:
        """`store`: None where it did not answer; `tracking_uri` is then asked once more at the end."""
        self.folder, self.manifest, self.retired = folder, manifest, retired
        self.records = dict(records)
        self._store, self._tracking_uri = store, tracking_uri
        self._sender = None if store is None else Sender(store, metrics=manifest.metrics)
        self._written: dict[str, float] = {}
        self._unwritten: set[str] = set()
        self._manifest_is_old = False

    def write_manifest(self) -> None:
        """Write `grid.json`."""
        write_grid(self.folder, self.manifest, list(self.records.values()), self.retired)

    def listener(self, on_event: OnEvent) -> OnEvent:
        """Give the launcher's listener: write first, then show."""

        def listen(event: Event) -> None:
            self._apply(event)
            on_event(event)

        return listen

    def close(self, status: RunStatus, *, hurried: bool = False) -> TrackingError | None:
        """Write every state, end the parent run, send what is left; give what the store refused.

        Raises `TrackingError` where the disk still refuses a state. `hurried`: somebody asked to stop.
        """
        for cell_id in sorted(self._unwritten):
            write_cell(self.folder / cell_id, self.records[cell_id])
            self._unwritten.discard(cell_id)
        self.write_manifest()
        patience, at_most = (_IN_A_HURRY,) * 2 if hurried else (_PATIENCE, float("inf"))
        if self._sender is None or self._store is None:
            return self._try_once(hurried=hurried)
        cells = tuple(self.records.values())
        end = partial(end_parent, self.folder, self.manifest, cells, status, self._store)
        self._sender.post("parent", end)
        return self._sender.close(patience, at_most=at_most)

    def _try_once(self, *, hurried: bool) -> TrackingError | None:
        """Send everything to a store that was out when the grid began."""
        refusal = TrackingError("the tracking store did not answer when the grid began")
        if hurried:
            return refusal
        try:
            synced = publish(self.folder, prepare_store(self._tracking_uri))
        except TrackingError as error:
            return error
        self.manifest = replace(self.manifest, parent_run_id=synced.parent_run_id)
        return None

    def _apply(self, event: Event) -> None:
        cell = self.records[event.cell_id]
        match event:
            case Started():
                cell = replace(cell, state="running", started=now(), ended=None, error=None)
                self._write_state(cell)
                self._post_status(cell, "RUNNING")
            case Stepped():
                self.records[cell.cell_id] = replace(cell, steps_done=event.step)
                if time.monotonic() - self._written.get(cell.cell_id, 0.0) > _WRITE_SECONDS:
                    self._write_state(self.records[cell.cell_id])
                if self._sender is not None:
                    folder = self.folder / cell.cell_id
                    self._sender.step(cell.run_id, folder, event.step, event.metrics)
            case Ended():
                cell = replace(cell, state=event.state, ended=now(), error=event.error)
                self._write_state(cell)
                if self._sender is not None and self._store is not None:
                    spikes = partial(log_spikes, cell, self.folder / cell.cell_id, self._store)
                    self._sender.post(("spikes", cell.cell_id), spikes)
                self._post_status(cell, STATUS[event.state])
            case _:
                assert_never(event)

    def _post_status(self, cell: CellRecord, status: RunStatus) -> None:
        if self._sender is not None and self._store is not None:
            job = partial(self._store.set_status, cell.run_id, status)
            self._sender.post(("status", cell.cell_id), job)

    def _write_state(self, cell: CellRecord) -> None:
        """Write a state; what the disk refuses is said once and written with the next, or by `close`."""
        self._manifest_is_old |= self.records[cell.cell_id].state != cell.state
        self.records[cell.cell_id] = cell
        self._written[cell.cell_id] = time.monotonic()
        known = bool(self._unwritten)
        self._unwritten.add(cell.cell_id)
        try:
            for cell_id in sorted(self._unwritten):
                write_cell(self.folder / cell_id, self.records[cell_id])
                self._unwritten.discard(cell_id)
            if self._manifest_is_old:
                self.write_manifest()
                self._manifest_is_old = False
        except TrackingError as error:
            if not known:
                _log.warning("a state is written as soon as that is possible: %s", error)
