"""A grid from its cells to its end: what is left to do, its runs, its launcher, its outcome.

Running the same grid again runs what has not finished; an amended grid adds its new cells. Everything
that can be checked is checked before the first file or run is created.

    run_grid(expand(load_ablation("experiments/quickstart.yaml")))
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from alpkit import __version__
from alpkit.config import Cell, Grid, dump_yaml
from alpkit.errors import GridError
from alpkit.launch.adopt import adopt
from alpkit.launch.base import (
    TRAINER,
    CellTask,
    Launcher,
    OnEvent,
    on_signals,
    raise_interrupt,
)
from alpkit.launch.describe import child_tags, git_commit, params, parent_tags
from alpkit.launch.inline import Inline
from alpkit.launch.ledger import Ledger
from alpkit.launch.preflight import check_cells, check_store
from alpkit.launch.processes import Processes
from alpkit.runs.configs import write_config
from alpkit.runs.folder import CONFIG_FILE, GridFolder, RunFolder, grid_folder
from alpkit.runs.lock import is_live, lock
from alpkit.runs.states import (
    CellRecord,
    GridRecord,
    Manifest,
    killed_if_not_live,
    now,
    read_cell,
    read_grid,
    write_cell,
)
from alpkit.tracking import MlflowSink, Store, backfill, prepare_store, resolve_uri

LauncherName = Literal["inline", "processes"]


@dataclass(frozen=True)
class Options:
    """How a grid is run; None: as the grid's file says."""

    root: Path = Path(".")
    tracking_uri: str | None = None
    launcher: LauncherName | None = None
    jobs: int | None = None
    only: Sequence[str] = ()
    fail_fast: bool = False
    source: str = ""
    """The ablation file's text, kept as an artifact of the parent run."""
    trainer: str = TRAINER


@dataclass(frozen=True)
class Outcome:
    """What a launch left behind: `launched` cells had yet to finish, `skipped` ones had."""

    folder: Path
    parent_run_id: str
    tracking_uri: str
    records: tuple[CellRecord, ...]
    launched: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def failed(self) -> tuple[CellRecord, ...]:
        """The cells of this launch that did not finish."""
        return tuple(
            record
            for record in self.records
            if record.cell_id in self.launched and record.state != "finished"
        )


def states(grid: Grid, root: Path = Path(".")) -> tuple[CellRecord, ...]:
    """Where every cell of the grid stands on disk; `pending` if it never ran."""
    grid = adopt(grid, root)
    folder = grid_folder(root, grid.name)
    records = [
        read_cell(folder / cell.cell_id) or CellRecord(cell.cell_id, cell.arm, cell.seed, grid.name)
        for cell in grid.cells
    ]
    return killed_if_not_live(records, live=is_live(folder))


def selected(grid: Grid, only: Sequence[str]) -> tuple[Cell, ...]:
    """The cells of the arms in `only` (all, if empty); a name that is no arm is an error."""
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
    """Check what needs no file to be created; give the cells that a launch would run."""
    grid = adopt(grid, options.root)
    cells = selected(grid, options.only)
    finished = {r.cell_id for r in states(grid, options.root) if r.state == "finished"}
    todo = tuple(cell for cell in cells if cell.cell_id not in finished)
    check_store(resolve_uri(options.tracking_uri))
    check_cells(todo, models=options.trainer == TRAINER)
    return todo


def run_grid(
    grid: Grid, options: Options = Options(), on_event: OnEvent = lambda _event: None
) -> Outcome:
    """Run what is left of the grid; `KeyboardInterrupt` when interrupted, with every state written."""
    grid = adopt(grid, options.root)
    check(grid, options)
    folder = grid_folder(options.root, grid.name)
    with lock(folder), on_signals(raise_interrupt):
        # Asked again under the lock: another launch may just have finished some.
        todo = check(grid, options)
        store = prepare_store(options.tracking_uri)
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
            _launcher(grid, options).run(
                tasks, ledger.listener(on_event), fail_fast=options.fail_fast
            )
        except BaseException:
            with suppress(Exception):
                ledger.close("KILLED")
            raise
        records = tuple(ledger.records.values())
        failed = any(record.state in ("failed", "killed") for record in records)
        ledger.close("FAILED" if failed else "FINISHED")
    launched = tuple(cell.cell_id for cell in todo)
    skipped = {c.cell_id for c in selected(grid, options.only)} - set(launched)
    return Outcome(
        folder=folder,
        parent_run_id=ledger.manifest.parent_run_id,
        tracking_uri=resolve_uri(options.tracking_uri),
        records=records,
        launched=launched,
        skipped=tuple(c.cell_id for c in grid.cells if c.cell_id in skipped),
    )


def _launcher(grid: Grid, options: Options) -> Launcher:
    match options.launcher or grid.launch.launcher:
        case "inline":
            return Inline()
        case "processes":
            jobs = grid.launch.jobs if options.jobs is None else options.jobs
            return Processes(None if jobs == "auto" else jobs)


def _open(grid: Grid, todo: Sequence[Cell], folder: Path, store: Store, options: Options) -> Ledger:
    """Create or reopen everything that a launch writes to, before any worker starts."""
    old = read_grid(folder) if GridFolder(folder).manifest.exists() else None
    experiment = store.experiment(grid.name, note=grid.question)
    git = git_commit()
    parent = store.open_parent(experiment, grid.name, parent_tags(grid, git))
    manifest = replace(
        Manifest.from_json(grid.manifest()),
        created=(old and old.manifest.created) or now(),
        launched=now(),
        version=__version__,
        git=git,
        tracking_uri=resolve_uri(options.tracking_uri),
        experiment_id=experiment,
        parent_run_id=parent,
    )
    records: dict[str, CellRecord] = {}
    waiting = {cell.cell_id for cell in todo}
    # The lock is ours, so a cell that claims to run belongs to a launch that was killed.
    before = killed_if_not_live(states(grid, options.root), live=False)
    for cell, record in zip(grid.cells, before, strict=True):
        # A cell may have run under another arm's name before the file was amended.
        record = replace(record, arm=cell.arm, seed=cell.seed, grid=grid.name)
        if cell.cell_id in waiting or record.state == "finished":
            record = _open_cell(cell, record, folder / cell.cell_id, store, manifest)
        records[cell.cell_id] = record
    retired = _retired(old, grid)
    _mark_retired(old, retired, records, store)
    ledger = Ledger(folder, manifest, records, retired, store)
    ledger.write_manifest()
    if options.source:
        store.log_text(parent, options.source, "grid.yaml")
    return ledger


def _open_cell(
    cell: Cell, record: CellRecord, folder: Path, store: Store, manifest: Manifest
) -> CellRecord:
    """Give the cell its run, the one it had or a new one, with all that its folder knows in it."""
    sent = store.last_step(record.run_id)
    goes_on = record.state == "finished" or RunFolder(folder).has_checkpoint
    if sent is not None and sent >= 0 and not goes_on:
        # It starts over, and one run must not hold two attempts' numbers under the same steps.
        store.discard(record.run_id)
        sent = None
    if sent is None:
        run_id = store.create_child(
            manifest.experiment_id,
            manifest.parent_run_id,
            f"{cell.arm} seed={cell.seed}",
            tags=child_tags(cell, manifest),
            params=params(cell),
        )
        record = replace(record, run_id=run_id)
        store.log_text(run_id, dump_yaml(cell.config), CONFIG_FILE)
    if goes_on and (sent is None or sent < record.steps_done):
        # A killed parent took its buffer with it, or the folder has outlived its store.
        backfill(folder, MlflowSink(store.client, store.uri, record.run_id))
        if record.state == "finished":
            store.set_status(record.run_id, "FINISHED")
    write_config(folder, cell.config)
    write_cell(folder, record)
    return record


def _mark_retired(
    old: GridRecord | None,
    retired: Sequence[CellRecord],
    current: Mapping[str, CellRecord],
    store: Store,
) -> None:
    """Keep runs of dropped cells out of the charts of the grid's cells, and let them come back."""
    known = {record.cell_id for record in old.retired} if old else set()
    for record in retired:
        if record.cell_id not in known and store.last_step(record.run_id) is not None:
            store.set_tags(record.run_id, {"alpkit.kind": "retired"})
    for cell_id in known & current.keys():
        if current[cell_id].run_id:
            store.set_tags(current[cell_id].run_id, {"alpkit.kind": "cell"})


def _retired(old: GridRecord | None, grid: Grid) -> tuple[CellRecord, ...]:
    """Cells that an earlier version of the file had: kept and findable, but not compared."""
    if old is None:
        return ()
    current = {cell.cell_id for cell in grid.cells}
    gone = {r.cell_id: r for r in (*old.retired, *old.cells) if r.cell_id not in current}
    return tuple(record for record in gone.values() if record.run_id)
