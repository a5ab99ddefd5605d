"""Run a grid to its end: find the cells that are left, open their runs, launch them, gather the outcome.

Running the same grid again runs what has not finished; an amended grid adds its new cells. Everything
that can be checked is checked before the first file or run is created.

    run_grid(expand(load_ablation("experiments/quickstart.yaml")))
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from alpkit import __version__
from alpkit.config import Cell, Grid
from alpkit.errors import GridError, TrackingError
from alpkit.launch.adopt import adopt
from alpkit.launch.base import (
    PROFILED_TRAINER,
    TRAINER,
    CellTask,
    Launcher,
    OnEvent,
    on_signals,
    raise_interrupt,
)
from alpkit.launch.describe import git_commit
from alpkit.launch.inline import Inline
from alpkit.launch.ledger import Ledger
from alpkit.launch.preflight import check_cells, check_launcher, check_store
from alpkit.launch.processes import Processes
from alpkit.launch.publish import open_cell, open_parent
from alpkit.runs.configs import write_config
from alpkit.runs.folder import GridFolder, RunFolder, grid_folder, set_aside
from alpkit.runs.lock import is_live, lock
from alpkit.runs.states import (
    CellRecord,
    GridRecord,
    Manifest,
    ManifestCell,
    killed_if_not_live,
    now,
    read_cell,
    read_grid,
    scan_cell,
    scan_manifest,
    write_cell,
)
from alpkit.tracking import Store, is_local, masked, prepare_store, resolve_uri

LauncherName = Literal["inline", "processes", "ray"]
Retry = Literal["failed", "all", "none"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of a launch; None: as the grid's file says."""

    root: Path = Path(".")
    tracking_uri: str | None = None
    launcher: LauncherName | None = None
    jobs: int | None = None
    only: Sequence[str] = ()
    retry: Retry = "failed"
    """failed: cells that failed go on from their checkpoints; none: they are left; all: every chosen cell runs
    again from its start, finished or not. What was never run, or interrupted, runs in every case."""
    fail_fast: bool = False
    source: str = ""
    """The ablation file's text, kept as an artifact of the parent run."""
    trainer: str = TRAINER


@dataclass(frozen=True)
class Outcome:
    """Outcome of a launch: `launched` cells had yet to finish, `skipped` ones had."""

    folder: Path
    parent_run_id: str
    tracking_uri: str
    records: tuple[CellRecord, ...]
    launched: tuple[str, ...]
    skipped: tuple[str, ...]
    unsent: TrackingError | None = None
    """Why the store lacks some of what the folder holds; None if it lacks nothing."""

    @property
    def failed(self) -> tuple[CellRecord, ...]:
        """The cells of this launch that did not finish."""
        return tuple(
            record
            for record in self.records
            if record.cell_id in self.launched and record.state != "finished"
        )


def states(grid: Grid, root: Path = Path(".")) -> tuple[CellRecord, ...]:
    """Read every cell's state from disk; `pending` if it never ran."""
    grid = adopt(grid, root)
    folder = grid_folder(root, grid.name)
    listed = {c.cell_id: c for m in scan_manifest(folder).rows for c in (*m.cells, *m.retired)}
    records = [_record(cell, folder, grid.name, listed.get(cell.cell_id)) for cell in grid.cells]
    return killed_if_not_live(records, live=is_live(folder))


def _record(cell: Cell, folder: Path, grid: str, listed: ManifestCell | None) -> CellRecord:
    """Read a cell's state; one that cannot be read is killed: it goes on from its checkpoint."""
    place = folder / cell.cell_id
    if not RunFolder(place).state.is_file():
        return CellRecord(cell.cell_id, cell.arm, cell.seed, grid)
    records, faults = scan_cell(place)
    for fault in faults:
        _log.warning(
            "%s %s: the cell goes on from its newest checkpoint", fault.place, fault.reason
        )
    if records:
        return records[0]
    run_id = "" if listed is None else listed.run_id
    return CellRecord(cell.cell_id, cell.arm, cell.seed, grid, run_id, "killed")


def selected(grid: Grid, only: Sequence[str]) -> tuple[Cell, ...]:
    """Give the cells of the arms in `only` (all, if it is empty); `GridError` for a name that is no arm."""
    for name in only:
        if name not in grid.arms:
            raise GridError(
                f"no arm {name!r} in grid {grid.name}",
                where="--only",
                why=f"its arms are: {', '.join(grid.arms)}",
                fix="use one of them, spelled as `alpkit plan` prints it",
            )
    return tuple(cell for cell in grid.cells if not only or cell.arm in only)


def check(grid: Grid, options: Options) -> tuple[Cell, ...]:
    """Make every check that creates no file; give the cells that a launch would run."""
    grid = adopt(grid, options.root)
    cells = selected(grid, options.only)
    over = {"failed": ("finished",), "none": ("finished", "failed"), "all": ()}[options.retry]
    left = {r.cell_id for r in states(grid, options.root) if r.state in over}
    todo = tuple(cell for cell in cells if cell.cell_id not in left)
    check_store(resolve_uri(options.tracking_uri))
    check_launcher(options.launcher or grid.launch.launcher)
    check_cells(todo, models=options.trainer in (TRAINER, PROFILED_TRAINER))
    return todo


def run_grid(
    grid: Grid, options: Options = Options(), on_event: OnEvent = lambda _event: None
) -> Outcome:
    """Run what is left of the grid; `KeyboardInterrupt` when interrupted, with every state written."""
    grid = adopt(grid, options.root)
    check(grid, options)
    folder = grid_folder(options.root, grid.name)
    launcher = _launcher(grid, options)
    with lock(folder), on_signals(raise_interrupt):
        # Asked again under the lock: another launch may just have finished some.
        todo = check(grid, options)
        if options.retry == "all":
            _start_over(todo, folder, grid)
        store = _store(options)
        ledger = _open(grid, todo, folder, store, options)
        tasks = [
            CellTask(
                cell_id=cell.cell_id,
                config=cell.config,
                folder=(folder / cell.cell_id).resolve(),
                trainer=options.trainer,
            )
            for cell in todo
        ]
        try:
            launcher.run(tasks, ledger.listener(on_event), fail_fast=options.fail_fast)
        except BaseException:
            _close_hurried(ledger)
            raise
        failed = any(record.state in ("failed", "killed") for record in ledger.records.values())
        unsent = ledger.close("FAILED" if failed else "FINISHED")
        # Late: where the store answered at the end only, run ids came with it.
        records = tuple(
            (read_cell(folder / record.cell_id) or record) if store is None else record
            for record in ledger.records.values()
        )
    launched = tuple(cell.cell_id for cell in todo)
    skipped = {c.cell_id for c in selected(grid, options.only)} - set(launched)
    return Outcome(
        folder=folder,
        parent_run_id=ledger.manifest.parent_run_id,
        tracking_uri=masked(resolve_uri(options.tracking_uri)),
        records=records,
        launched=launched,
        skipped=tuple(c.cell_id for c in grid.cells if c.cell_id in skipped),
        unsent=unsent,
    )


def _start_over(cells: Sequence[Cell], folder: Path, grid: Grid) -> None:
    """Set the folders of cells aside, so that they run from their start; `alpkit clean` finds what was set aside."""
    for cell in cells:
        place = folder / cell.cell_id
        if not place.is_dir():
            continue
        run_id = next((record.run_id for record in scan_cell(place).rows), "")
        set_aside(place)
        # With the old run's id: its numbers are discarded where the new ones begin.
        write_cell(place, CellRecord(cell.cell_id, cell.arm, cell.seed, grid.name, run_id))


def _store(options: Options) -> Store | None:
    """Open the store; None for a server that does not answer: training does not wait for it."""
    try:
        return prepare_store(options.tracking_uri)
    except TrackingError as error:
        if is_local(resolve_uri(options.tracking_uri)):
            raise
        _log.warning(
            "training starts without the tracking store, which is asked again at the end: %s", error
        )
        return None


def _close_hurried(ledger: Ledger) -> None:
    """Write every state while another error, or Ctrl-C, is on its way up; raises nothing."""
    try:
        unsent = ledger.close("KILLED", hurried=True)
    except TrackingError as error:
        unsent = error
    except Exception as error:  # it must not take the place of the first
        _log.error("the grid's end could not be written down: %s", error)
        return
    if unsent is not None:
        _log.warning("not everything is written down or sent; `alpkit sync` sends it: %s", unsent)


def _launcher(grid: Grid, options: Options) -> Launcher:
    told = grid.launch.jobs if options.jobs is None else options.jobs
    jobs = None if told == "auto" else told
    match options.launcher or grid.launch.launcher:
        case "inline":
            return Inline()
        case "processes":
            return Processes(jobs)
        case "ray":
            from alpkit.launch.ray import Ray

            cluster = Ray(jobs, cpus=grid.launch.cpus, gpus=grid.launch.gpus)
            cluster.refuse_a_file_store(resolve_uri(options.tracking_uri))
            return cluster


def _open(
    grid: Grid, todo: Sequence[Cell], folder: Path, store: Store | None, options: Options
) -> Ledger:
    """Create or reopen everything that a launch writes to, before any worker starts."""
    old = _old(folder)
    manifest = replace(
        Manifest.from_json(grid.manifest()),
        created=(old and old.manifest.created) or now(),
        launched=now(),
        version=__version__,
        git=git_commit(),
        tracking_uri=masked(resolve_uri(options.tracking_uri)),
    )
    if store is not None:
        manifest = open_parent(manifest, store)
    elif old is not None and old.tracking_uri == manifest.tracking_uri:
        known = old.manifest
        manifest = replace(
            manifest, experiment_id=known.experiment_id, parent_run_id=known.parent_run_id
        )
    records: dict[str, CellRecord] = {}
    waiting = {cell.cell_id for cell in todo}
    # The lock is ours, so a cell that claims to run belongs to a launch that was killed.
    before = killed_if_not_live(states(grid, options.root), live=False)
    for cell, record in zip(grid.cells, before, strict=True):
        # A cell may have run under another arm's name before the file was amended.
        record = replace(record, arm=cell.arm, seed=cell.seed, grid=grid.name)
        if cell.cell_id in waiting or record.state == "finished":
            place = folder / cell.cell_id
            if store is not None:
                record = open_cell(cell, record, place, store, manifest)
            write_config(place, cell.config)
            write_cell(place, record)
        records[cell.cell_id] = record
    retired = _retired(old, grid)
    if store is not None:
        _mark_retired(old, retired, records, store)
    ledger = Ledger(folder, manifest, records, retired, store, tracking_uri=options.tracking_uri)
    ledger.write_manifest()
    if options.source and store is not None:
        store.log_text(manifest.parent_run_id, options.source, "grid.yaml")
    return ledger


def _old(folder: Path) -> GridRecord | None:
    """Read the grid as the launch before left it; a manifest that cannot be read is set aside and named."""
    manifest = GridFolder(folder).manifest
    if not manifest.exists():
        return None
    for fault in scan_manifest(folder).faults:
        aside = set_aside(manifest)
        _log.warning(
            "%s %s: a new one is written from the cells' own files; it is kept as %s",
            fault.place,
            fault.reason,
            aside.name,
        )
        return None
    return read_grid(folder)


def _mark_retired(
    old: GridRecord | None,
    retired: Sequence[CellRecord],
    current: Mapping[str, CellRecord],
    store: Store,
) -> None:
    """Keep runs of dropped cells out of the charts of the grid's cells, and let them come back."""
    known = {record.cell_id for record in old.retired} if old else set()
    for record in retired:
        stored = store.look(record.run_id)
        if stored is None:
            continue
        if record.cell_id not in known:
            store.set_tags(record.run_id, {"alpkit.kind": "retired"})
        # A kill of the parent left it so, and nobody will run it again.
        if stored.status in ("RUNNING", "SCHEDULED"):
            store.set_status(record.run_id, "KILLED")
    for cell_id in known & current.keys():
        if current[cell_id].run_id:
            store.set_tags(current[cell_id].run_id, {"alpkit.kind": "cell"})


def _retired(old: GridRecord | None, grid: Grid) -> tuple[CellRecord, ...]:
    """List the cells that an earlier version of the file had: they are kept, but not compared."""
    if old is None:
        return ()
    current = {cell.cell_id for cell in grid.cells}
    before = killed_if_not_live((*old.retired, *old.cells), live=False)
    gone = {r.cell_id: r for r in before if r.cell_id not in current}
    return tuple(record for record in gone.values() if record.run_id)
