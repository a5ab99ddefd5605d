"""Rebuild a grid whose run folder is gone, from its MLflow store.

Writes what a run folder would hold (manifest, configs, states, metrics) into a temporary folder, so that
everything else reads one kind of grid. What MLflow never had is not there: token records, spikes, errors.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from alpkit.errors import GridError
from alpkit.runs.folder import CONFIG_FILE, MANIFEST_FILE, grid_folder
from alpkit.runs.states import (
    CellRecord,
    CellState,
    Manifest,
    ManifestCell,
    scan_manifest,
    write_cell,
    write_grid,
)
from alpkit.runs.steps import Step, write_steps
from alpkit.tracking.address import DEFAULT_URI, masked, resolve_uri
from alpkit.tracking.refusals import store_errors
from alpkit.tracking.store import STEP_TAG, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NOTE: Final = "Read from the MLflow store alone: no token records, so no tails."
_STATES: Final[Mapping[str, CellState]] = {
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "killed",
}
_LARGEST: Final = 1.79e308  # what MLflow makes of an infinity
_KEPT: Final[list[tempfile.TemporaryDirectory[str]]] = []  # removed when the process ends


class Restored(NamedTuple):
    """The temporary grid folder, and the cell that the run id named, if it was one."""

    folder: Path
    cell_id: str | None


def restore(run_id: str, root: Path, tracking_uri: str | None = None) -> Restored | None:
    """Find a parent run, a child run, `latest` or a grid's name in the store; None if it has none.

    The store is the argument, MLFLOW_TRACKING_URI, or `mlflow.db` under `root`. Nothing is created there.
    """
    uri = resolve_uri(tracking_uri)
    if uri == DEFAULT_URI:
        uri = f"sqlite:///{root.resolve()}/mlflow.db"
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return None  # asking MLflow would make one
    client = open_client(uri)
    with store_errors(uri):
        named = _find(client, run_id)
        if named is None:
            return None
        parent = named
        if named.data.tags.get("mlflow.parentRunId"):
            parent = client.get_run(named.data.tags["mlflow.parentRunId"])
        holder = tempfile.TemporaryDirectory(prefix="alpkit-")
        _KEPT.append(holder)
        name = str(client.get_experiment(parent.info.experiment_id).name)
        folder = grid_folder(Path(holder.name), name)
        _write(client, uri, parent, name, folder)
    return Restored(folder, named.data.tags.get("alpkit.cell_id") if named is not parent else None)


def _find(client: "MlflowClient", run_id: str) -> "Run | None":
    parents = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id], "tags.`alpkit.kind` = 'grid'")
        if run_id in ("latest", experiment.name)
        or run_id in (run.info.run_id, run.data.tags.get("alpkit.grid_id"))
    ]
    if parents:
        return max(parents, key=lambda run: int(run.info.start_time))
    children = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id], "tags.`alpkit.kind` = 'cell'")
        if run_id in (run.info.run_id, run.data.tags.get("alpkit.cell_id"))
    ]
    if len(children) > 1:
        raise GridError(
            f"{run_id!r} names {len(children)} runs",
            where="the MLflow store",
            fix="use the run's id",
        )
    return children[0] if children else None


def _write(client: "MlflowClient", uri: str, parent: "Run", name: str, folder: Path) -> None:
    identity = str(parent.info.run_id)
    folder.mkdir(parents=True)
    records = []
    query = f"tags.`mlflow.parentRunId` = '{identity}'"
    for run in client.search_runs([parent.info.experiment_id], query, order_by=["start_time ASC"]):
        record = _record(run, name)
        records.append(record)
        place = folder / record.cell_id
        write_cell(place, record)
        write_steps(place, _steps(client, run))
        _artifact(client, record.run_id, CONFIG_FILE, place)
    _artifact(client, identity, MANIFEST_FILE, folder)
    # In the manifest's order and under its names: an amended grid has renamed or left some behind.
    stored = next(iter(scan_manifest(folder).rows), None)
    listed = stored.cells if stored and stored.cells else [_listed(record) for record in records]
    known = {record.cell_id for record in records}
    manifest = replace(
        stored or Manifest(grid=name, cells=()),
        grid=name,
        grid_id=parent.data.tags.get("alpkit.grid_id", ""),
        parent_run_id=identity,
        tracking_uri=masked(uri),
        cells=tuple(cell for cell in listed if cell.cell_id in known),
        notes=(*(stored.notes if stored else ()), NOTE),
    )
    write_grid(folder, manifest, records)


def _record(run: "Run", grid: str) -> CellRecord:
    tags = run.data.tags
    return CellRecord(
        cell_id=tags["alpkit.cell_id"],
        arm=tags["alpkit.arm"],
        seed=int(tags["alpkit.seed"]),
        grid=grid,
        run_id=str(run.info.run_id),
        state=_STATES.get(str(run.info.status), "killed"),
        steps_done=max(int(tags.get(STEP_TAG, -1)), 0),
    )


def _listed(record: CellRecord) -> ManifestCell:
    return ManifestCell(record.cell_id, record.arm, record.seed)


def _steps(client: "MlflowClient", run: "Run") -> list[Step]:
    metrics: dict[int, dict[str, float | None]] = {}
    for key in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, key):
            value = float(metric.value)
            if abs(value) < _LARGEST:
                metrics.setdefault(int(metric.step), {})[key] = value
    return [Step(step, metrics[step]) for step in sorted(metrics)]


def _artifact(client: "MlflowClient", run_id: str, name: str, folder: Path) -> Path | None:
    """Download one file; None where the store has lost it, as one that was moved has."""
    # A progress bar per file is noise.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if name not in [item.path for item in client.list_artifacts(run_id)]:
        return None
    return Path(client.download_artifacts(run_id, name, str(folder)))
