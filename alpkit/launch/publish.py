"""A grid's folder into its store: the runs, and whatever the folder holds beyond what the store does.

Everything here may be done twice: a kill may come in the middle of it. While a grid runs,
`alpkit.tracking.Sender` sends the steps; what is here comes before, after, and from `alpkit sync`.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from alpkit.config import Cell, dump_yaml
from alpkit.config.stored import load_run
from alpkit.errors import AlpkitError
from alpkit.launch.describe import child_tags, params, parent_tags
from alpkit.runs.folder import CONFIG_FILE, GridFolder, RunFolder
from alpkit.runs.lock import lock
from alpkit.runs.spike_log import scan_spikes, spike_table, spike_tags
from alpkit.runs.states import (
    CellRecord,
    Manifest,
    killed_if_not_live,
    read_grid,
    write_cell,
    write_grid,
)
from alpkit.runs.steps import last_step
from alpkit.tracking import MlflowSink, Store, backfill, masked, prepare_store, usable_uri
from alpkit.tracking.store import RunStatus

STATUS: Final[dict[str, RunStatus]] = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "killed": "KILLED",
}
_SPIKES_TAG: Final = "alpkit.spikes"
_log = logging.getLogger(__name__)


class Synced(NamedTuple):
    """Outcome of `sync_grid`: the parent run, its cells, and what was new to the store."""

    parent_run_id: str
    tracking_uri: str
    cells: int
    steps: int
    """Steps that the store lacked before."""
    unread: list[str]
    """Cells that could not be sent, and why."""


def open_parent(manifest: Manifest, store: Store) -> Manifest:
    """Create or reopen the grid's experiment and parent run; give the manifest with their ids."""
    experiment = store.experiment(manifest.grid, note=manifest.question)
    parent = store.open_parent(experiment, manifest.grid, parent_tags(manifest))
    return replace(manifest, experiment_id=experiment, parent_run_id=parent)


def open_cell(
    cell: Cell, record: CellRecord, folder: Path, store: Store, manifest: Manifest
) -> CellRecord:
    """Give the cell its run, the one it had or a new one, with all that its folder knows in it."""
    stored = store.look(record.run_id)
    goes_on = record.state == "finished" or RunFolder(folder).has_checkpoint
    if stored is not None and stored.last_step >= 0 and not goes_on:
        # It starts over, and one run must not hold two attempts' numbers under the same steps.
        store.discard(record.run_id)
        stored = None
    if stored is None:
        record = replace(record, run_id=_create(cell, record, store, manifest))
        # At once: a kill before it is written down would leave a run that nobody knows.
        write_cell(folder, record)
    if goes_on:
        send_steps(record, folder, store, manifest.metrics)
    if record.state == "finished":
        send_end(record, folder, store)
    return record


def _create(cell: Cell, record: CellRecord, store: Store, manifest: Manifest) -> str:
    experiment, parent = manifest.experiment_id, manifest.parent_run_id
    for run_id in store.unknown_children(experiment, parent, cell.cell_id, record.run_id):
        store.discard(run_id)
    run_id = store.create_child(
        experiment,
        parent,
        f"{cell.arm} seed={cell.seed}",
        tags=child_tags(cell, manifest),
        params=params(cell),
    )
    store.log_text(run_id, dump_yaml(cell.config), CONFIG_FILE)
    return run_id


def send_steps(record: CellRecord, folder: Path, store: Store, metrics: tuple[str, ...]) -> int:
    """Send the steps of the cell's file that the store lacks, those of their `metrics`; give how many."""
    sink = MlflowSink(store.client, store.uri, record.run_id, metrics=metrics)
    before = sink.sent
    # Its own file and not `steps_done`, which is written a second later at times.
    if before < last_step(folder):
        backfill(folder, sink)
    return sink.sent - before


def send_end(record: CellRecord, folder: Path, store: Store) -> None:
    """Log the cell's spikes and its final status, where the store lacks them."""
    stored = store.look(record.run_id)
    if stored is None:
        return
    if _SPIKES_TAG not in stored.tags:
        log_spikes(record, folder, store)
    status = STATUS.get(record.state)
    if status is not None and stored.status != status:
        store.set_status(record.run_id, status)


def log_spikes(record: CellRecord, folder: Path, store: Store) -> None:
    """Log the cell's spikes as tags that count them and a table, in place of an earlier attempt's."""
    spikes, faults = scan_spikes(folder)
    for fault in faults:
        _log.warning("the store lacks a spike: %s: %s", fault.place, fault.reason)
    store.log_table(record.run_id, *spike_table(spikes), "spikes.json")
    store.set_tags(record.run_id, spike_tags(spikes))


def end_parent(
    folder: Path, manifest: Manifest, records: Sequence[CellRecord], status: RunStatus, store: Store
) -> None:
    """Log the manifest and the grid's progress on its parent run, and end it."""
    finished = sum(cell.state == "finished" for cell in records)
    parent = manifest.parent_run_id
    store.log_files(parent, GridFolder(folder).manifest)
    store.set_tags(parent, {"alpkit.progress": f"{finished}/{len(records)} finished"})
    store.set_status(parent, status)


def sync_grid(folder: Path, tracking_uri: str | None = None) -> Synced:
    """Bring the store up to what a grid's folder holds: runs, steps, spikes, states.

    Raises `GridError` while the grid runs, for then it sends by itself; `TrackingError` where the store
    does not answer.
    """
    with lock(folder):
        uri = usable_uri(tracking_uri, read_grid(folder).tracking_uri)
        return publish(folder, prepare_store(uri))


def publish(folder: Path, store: Store) -> Synced:
    """Do the work of `sync_grid` for who holds the grid's lock."""
    grid = read_grid(folder)
    manifest = open_parent(replace(grid.manifest, tracking_uri=masked(store.uri)), store)
    axes = {cell.cell_id: cell.axes for cell in manifest.cells}
    records, unread, steps = [], [], 0
    for record in killed_if_not_live(grid.cells, live=False):
        place = folder / record.cell_id
        if record.state != "pending":
            try:
                config = load_run(RunFolder(place).config)
            except AlpkitError as error:
                unread.append(f"{record.cell_id}: {str(error).splitlines()[0]}")
                records.append(record)
                continue
            cell = Cell(record.cell_id, record.arm, record.seed, axes[record.cell_id], config)
            if store.look(record.run_id) is None:
                record = replace(record, run_id=_create(cell, record, store, manifest))
                write_cell(place, record)
            steps += send_steps(record, place, store, manifest.metrics)
            send_end(record, place, store)
        records.append(record)
    write_grid(folder, manifest, records, grid.retired)
    failed = any(record.state in ("failed", "killed") for record in records)
    end_parent(folder, manifest, records, "FAILED" if failed else "FINISHED", store)
    return Synced(manifest.parent_run_id, manifest.tracking_uri, len(records), steps, unread)
