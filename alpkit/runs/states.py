"""Run folders: where a grid and its cells live on disk, their state, and how a RUN_ID finds them.

`runs/<grid>/grid.json` is the manifest, `runs/<grid>/<cell_id>/cell.json` one cell's state; both
are replaced atomically and readable without MLflow. Not here: what a cell writes (trainer).

    target = resolve("latest"); read_grid(target.folder).cells
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from alpkit.errors import GridError, TrackingError

CellState = Literal["pending", "running", "finished", "failed", "killed"]

RUNS: Final = "runs"
_GRID: Final = "grid.json"
_CELL: Final = "cell.json"
_LOCK: Final = ".lock"


@dataclass(frozen=True)
class CellRecord:
    """`cell.json`: who the cell is and how far it got, in finished training steps."""

    cell_id: str
    arm: str
    seed: int
    grid: str
    run_id: str = ""
    state: CellState = "pending"
    steps_done: int = 0
    started: str | None = None
    ended: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class GridRecord:
    """`grid.json`, cell states refreshed from the cells' own files.

    `manifest` is the file as it stands; `cells` and `retired` (cells of an earlier version of the
    grid file, kept on disk but no longer part of the grid) are its entries as records.
    """

    folder: Path
    manifest: dict[str, Any]
    cells: tuple[CellRecord, ...]
    retired: tuple[CellRecord, ...]

    @property
    def name(self) -> str:
        return str(self.manifest.get("grid") or self.folder.name)

    @property
    def parent_run_id(self) -> str:
        return str(self.manifest.get("parent_run_id") or "")

    @property
    def tracking_uri(self) -> str:
        return str(self.manifest.get("tracking_uri") or "")

    @property
    def launched(self) -> str:
        """When the parent run was last opened, ISO; what `latest` is judged by."""
        return str(self.manifest.get("launched") or self.manifest.get("created") or "")


class Target(NamedTuple):
    """What a RUN_ID names: a grid's folder, and one of its cells if it names a cell."""

    folder: Path
    cell_id: str | None = None


def now() -> str:
    """Give the time as ISO 8601 in UTC, to the microsecond, so that text order is time order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def grid_folder(root: Path, name: str) -> Path:
    return root / RUNS / name


def write_text(path: Path, text: str) -> None:
    """Write through a temporary file beside it: readers see the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write_cell(folder: Path, record: CellRecord) -> None:
    write_json(folder / _CELL, asdict(record))


def read_cell(folder: Path) -> CellRecord | None:
    """Read `folder/cell.json`; None where there is none."""
    if not (folder / _CELL).is_file():
        return None
    return _record(_read_json(folder / _CELL))


def write_grid(
    folder: Path,
    manifest: Mapping[str, Any],
    cells: Sequence[CellRecord],
    retired: Sequence[CellRecord] = (),
) -> None:
    """Write `grid.json`: the manifest, with run id and state added to each of its cells."""
    records = {record.cell_id: record for record in cells}
    listed = [
        {
            **entry,
            "run_id": records[entry["cell_id"]].run_id,
            "state": records[entry["cell_id"]].state,
        }
        for entry in manifest["cells"]
    ]
    gone = [
        {"cell_id": r.cell_id, "arm": r.arm, "seed": r.seed, "run_id": r.run_id, "state": r.state}
        for r in retired
    ]
    write_json(folder / _GRID, {**manifest, "cells": listed, "retired": gone})


def read_grid(folder: Path) -> GridRecord:
    """Read a grid's folder; a cell's own `cell.json` is the truth about its state."""
    manifest = _read_json(folder / _GRID)
    name = str(manifest.get("grid") or folder.name)

    def record(entry: Mapping[str, Any]) -> CellRecord:
        # One damaged cell.json must not hide the grid: the manifest knows the cell too.
        with contextlib.suppress(TrackingError):
            own = read_cell(folder / str(entry["cell_id"]))
            if own is not None:
                return own
        return _record({**entry, "grid": name})

    def records(key: str) -> tuple[CellRecord, ...]:
        return tuple(record(entry) for entry in manifest.get(key) or ())

    return GridRecord(folder, manifest, records("cells"), records("retired"))


def list_grids(root: Path) -> list[GridRecord]:
    """Every readable grid under `root/runs`, most recently launched first."""
    grids = []
    for path in sorted((root / RUNS).glob(f"*/{_GRID}")):
        # One damaged manifest must not hide the other grids.
        with contextlib.suppress(TrackingError):
            grids.append(read_grid(path.parent))
    return sorted(grids, key=lambda grid: grid.launched, reverse=True)


def resolve(run_id: str, root: Path = Path(".")) -> Target:
    """Find what `run_id` names: a folder, an exact run id, `latest`, a grid's name, or a prefix."""
    for folder in (Path(run_id), root / run_id):
        if (folder / _GRID).is_file():
            return Target(folder)
        if (folder / _CELL).is_file():
            return Target(folder.parent, folder.name)
    grids = list_grids(root)
    names = [(grid.name, Target(grid.folder)) for grid in grids]
    ids = [pair for grid in grids for pair in _ids(grid)]
    exact = [target for text, target in ids if text == run_id]
    if not exact and run_id == "latest" and grids:
        exact = [Target(grids[0].folder)]
    found = exact or [target for text, target in names if text == run_id]
    if not found and run_id:
        found = [target for text, target in [*ids, *names] if text.startswith(run_id)]
    found = list(dict.fromkeys(found))
    if len(found) == 1:
        return found[0]
    if found:
        raise GridError(
            f"{run_id!r} names {len(found)} runs",
            where=str(root / RUNS),
            why="; ".join(_describe(target) for target in found[:8]),
            fix="write more of the id, or the folder",
        )
    raise GridError(
        f"no run {run_id!r}",
        where=str(root / RUNS),
        why=f"grids here: {', '.join(grid.name for grid in grids)}"
        if grids
        else "no grid has run here",
        fix="use one of them, `latest`, a run id or a folder"
        if grids
        else "start one: alpkit run FILE",
    )


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the grid's folder; the kernel lets go when this process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise GridError(
                f"grid {folder.name} is running already",
                where=str(folder),
                why=f"process {holder} holds it, and two would write the same cells",
                fix="wait for it, or stop it",
            ) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def is_live(folder: Path) -> bool:
    """Whether some process is running this grid right now."""
    try:
        with (folder / _LOCK).open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def honest(records: Sequence[CellRecord], *, live: bool) -> tuple[CellRecord, ...]:
    """Turn `running` into `killed` where nothing runs: what a SIGKILL of the parent leaves."""
    if live:
        return tuple(records)
    return tuple(replace(r, state="killed") if r.state == "running" else r for r in records)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrackingError(
            "a run's state cannot be read",
            where=str(path),
            why=str(error).splitlines()[0],
            fix="point at a folder that `alpkit run` wrote: runs/<grid>",
        ) from error
    if not isinstance(data, dict):
        raise TrackingError(
            "a run's state is not a JSON object", where=str(path), fix="restore the file"
        )
    return data


def _record(data: Mapping[str, Any]) -> CellRecord:
    known = {field.name for field in fields(CellRecord)}
    return CellRecord(**{key: value for key, value in data.items() if key in known})


def _ids(grid: GridRecord) -> list[tuple[str, Target]]:
    """What may be typed for this grid and its cells, retired ones included."""
    pairs = [(grid.parent_run_id, Target(grid.folder))]
    for cell in (*grid.cells, *grid.retired):
        target = Target(grid.folder, cell.cell_id)
        pairs += [(cell.run_id, target), (cell.cell_id, target)]
    return [(text, target) for text, target in pairs if text]


def _describe(target: Target) -> str:
    return str(target.folder / target.cell_id if target.cell_id else target.folder)
