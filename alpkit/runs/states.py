"""`grid.json` and `cell.json`: what a grid consists of, and how far each of its cells got.

Both are replaced atomically and readable without MLflow. Files of older versions are read: what they
lack has a default, what they have beyond is ignored.

    read_grid(folder).cells; write_cell(folder / cell_id, record)
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar, cast, get_args, get_origin, get_type_hints

from alpkit.runs.faults import Contents, Fault, reason_of, scan_mapping
from alpkit.runs.folder import GridFolder, RunFolder, is_file_name
from alpkit.runs.swap import write_json

CellState = Literal["pending", "running", "finished", "failed", "killed"]
Parsed = TypeVar("Parsed")
_FIX: Final = "run the grid's file again: it writes the file anew from the rest of the folder"


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

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """Take what is known of `data`; a ValueError names what is missing."""
        return cls(**_known(cls, data))


@dataclass(frozen=True)
class ManifestCell:
    """A cell as its grid's manifest lists it; `state` may lag behind the cell's own file."""

    cell_id: str
    arm: str
    seed: int
    axes: dict[str, object] = field(default_factory=dict)
    run_id: str = ""
    state: CellState = "pending"

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """Take what is known of `data`; a ValueError names what is missing."""
        return cls(**_known(cls, data))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`grid.json`: what a grid consists of, who launched it, and where its numbers go."""

    grid: str
    grid_id: str = ""
    question: str = ""
    cells: tuple[ManifestCell, ...]
    controls: dict[str, str] = field(default_factory=dict)
    """Perturbed arm -> its sigma = 0 control."""
    reference: str = ""
    """The arm that the file compares others with; empty: none named."""
    tests: tuple[str, ...] = ()
    """The arms whose comparisons the file wants tested; empty: all of them."""
    metrics: tuple[str, ...] = ("default",)
    """Patterns of the metrics that go to MLflow (`tracking.metrics`)."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    created: str = ""
    launched: str = ""
    """When the parent run was last opened, ISO; what `latest` is judged by."""
    version: str = ""
    git: str = ""
    tracking_uri: str = ""
    experiment_id: str = ""
    parent_run_id: str = ""
    retired: tuple[ManifestCell, ...] = ()
    """Cells of an earlier version of the grid file: kept on disk, no longer part of the grid."""

    @classmethod
    def from_json(cls, data: Mapping[str, object], *, name: str = "") -> Self:
        """Take what is known of `data`; `name` is the grid's where `data` lacks it."""
        known = _known(cls, {**data, "grid": data.get("grid") or name})
        for listed in ("cells", "retired"):
            entries = known.get(listed, ())
            known[listed] = tuple(ManifestCell.from_json(entry) for entry in entries)
        for texts in ("notes", "warnings", "tests", "metrics"):
            if texts in known:
                known[texts] = tuple(str(text) for text in known[texts])
        known["controls"] = {k: str(v) for k, v in known.get("controls", {}).items()}
        manifest = cls(**known)
        return manifest if manifest.launched else replace(manifest, launched=manifest.created)

    def to_json(self) -> dict[str, object]:
        """Give what `from_json` takes."""
        return asdict(self)


@dataclass(frozen=True)
class GridRecord:
    """A grid on disk: its manifest, and its cells' records refreshed from the cells' own files."""

    folder: Path
    manifest: Manifest
    cells: tuple[CellRecord, ...]
    retired: tuple[CellRecord, ...]

    @property
    def name(self) -> str:
        return self.manifest.grid

    @property
    def parent_run_id(self) -> str:
        return self.manifest.parent_run_id

    @property
    def tracking_uri(self) -> str:
        return self.manifest.tracking_uri

    @property
    def launched(self) -> str:
        """When the parent run was last opened, ISO; what `latest` is judged by."""
        return self.manifest.launched


def now() -> str:
    """Give the time as ISO 8601 in UTC, to the microsecond, so that text order is time order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def write_cell(folder: Path, record: CellRecord) -> None:
    """Write the cell's `cell.json`."""
    write_json(RunFolder(folder).state, asdict(record))


def scan_cell(folder: Path) -> Contents[CellRecord]:
    """Read a cell's `cell.json`: one record, or the reason for none."""
    path = RunFolder(folder).state
    return _parsed(path, scan_mapping(path, json.loads), CellRecord.from_json)


def read_cell(folder: Path) -> CellRecord | None:
    """Read a cell's `cell.json`; None where there is none, `TrackingError` where it cannot be read."""
    if not RunFolder(folder).state.is_file():
        return None
    return scan_cell(folder).strict("a cell's state cannot be read", _FIX)[0]


def write_grid(
    folder: Path,
    manifest: Manifest,
    cells: Sequence[CellRecord],
    retired: Sequence[CellRecord] = (),
) -> None:
    """Write `grid.json`: the manifest, with run id and state of each of its cells."""
    records = {record.cell_id: record for record in cells}
    listed = tuple(
        replace(cell, run_id=records[cell.cell_id].run_id, state=records[cell.cell_id].state)
        for cell in manifest.cells
    )
    gone = tuple(ManifestCell(r.cell_id, r.arm, r.seed, {}, r.run_id, r.state) for r in retired)
    write_json(GridFolder(folder).manifest, replace(manifest, cells=listed, retired=gone).to_json())


def scan_manifest(folder: Path) -> Contents[Manifest]:
    """Read a grid's `grid.json`: one manifest, or the reason for none."""
    path = GridFolder(folder).manifest
    return _parsed(
        path,
        scan_mapping(path, json.loads),
        lambda data: Manifest.from_json(data, name=folder.name),
    )


def read_manifest(folder: Path) -> Manifest:
    """Read a grid's `grid.json`; `TrackingError` where it cannot be read."""
    return scan_manifest(folder).strict("a grid's manifest cannot be read", _FIX)[0]


def read_grid(folder: Path) -> GridRecord:
    """Read a grid's folder; a cell's own `cell.json` is the truth about its state."""
    manifest = read_manifest(folder)

    def record(listed: ManifestCell) -> CellRecord:
        # One damaged cell.json must not hide the grid: the manifest knows the cell too.
        for record in scan_cell(folder / listed.cell_id).rows:
            return record
        return CellRecord.from_json({**asdict(listed), "grid": manifest.grid})

    return GridRecord(
        folder,
        manifest,
        tuple(record(listed) for listed in manifest.cells),
        tuple(record(listed) for listed in manifest.retired),
    )


def killed_if_not_live(records: Iterable[CellRecord], *, live: bool) -> tuple[CellRecord, ...]:
    """Turn `running` into `killed` where nothing runs: what a SIGKILL of the parent leaves."""
    return tuple(
        replace(r, state="killed") if r.state == "running" and not live else r for r in records
    )


def _parsed(
    path: Path, contents: Contents[dict[str, object]], parse: Callable[[dict[str, object]], Parsed]
) -> Contents[Parsed]:
    try:
        return Contents([parse(data) for data in contents.rows], contents.faults)
    except (ValueError, TypeError, AttributeError) as error:
        return Contents([], [Fault(path, f"cannot be read ({reason_of(error, path)})")])


def _known(
    record: type[CellRecord | ManifestCell | Manifest], data: Mapping[str, object]
) -> dict[str, Any]:
    """Those fields of `record` that `data` has; a null is as good as no value."""
    required = {
        f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING
    }
    known = {f.name: data[f.name] for f in fields(record) if data.get(f.name) is not None}
    if missing := sorted(required - known.keys()):
        raise ValueError(f"lacks {', '.join(missing)}")
    hints = _hints(cast(Hashable, record))
    for name, value in known.items():
        if not _fits(hints[name], value):
            raise ValueError(f"{name} cannot be {_short(value)}")
        if name in _NAMES and not is_file_name(str(value)):
            raise ValueError(f"{name} cannot name a folder: {_short(value)}")
    return known


_NAMES: Final = ("grid", "cell_id")


@cache
def _hints(record: Hashable) -> dict[str, object]:
    return get_type_hints(record)


def _fits(hint: object, value: object) -> bool:
    """Whether a value read from JSON is of the annotated type."""
    match get_origin(hint):
        case None:
            return type(value) is hint
        case origin if origin is Literal:
            return value in get_args(hint)
        case origin if origin is tuple:
            return isinstance(value, (list, tuple))
        case origin if origin is dict:
            return isinstance(value, dict)
        case _:
            return any(_fits(branch, value) for branch in get_args(hint))


def _short(value: object) -> str:
    try:
        text = json.dumps(value)
    except ValueError:  # more digits than Python writes
        text = "a number without end"
    return text if len(text) <= 40 else f"{text[:40]}…"
