"""Read a grid and its cells as rows: manifest, states, configs, metrics; what cannot be read is named.

A killed run leaves half lines, half files and stale states; `alpkit.runs` reads around them. Not here:
frames of a whole grid (`alpkit.analysis.frames`), token records (`alpkit.analysis.reading.records`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, cast

import numpy as np
import pandas as pd
from pydantic import ValidationError

from alpkit.config import ObjectiveConfig
from alpkit.config.filters import FilterConfig, Overlong, sample_bounds
from alpkit.runs.batching import scan_batching
from alpkit.runs.configs import scan_config
from alpkit.runs.faults import Contents, Fault, Row
from alpkit.runs.folder import GridFolder
from alpkit.runs.states import (
    CellRecord,
    ManifestCell,
    killed_if_not_live,
    read_manifest,
    scan_cell,
)
from alpkit.runs.steps import Step, scan_steps


class Missing(NamedTuple):
    """Something that a reader would expect and that could not be read."""

    where: str
    what: str

    @classmethod
    def of(cls, fault: Fault, grid: Path) -> "Missing":
        """Name a fault by its place in the grid's folder."""
        left_out = "; left out" if fault.line is not None else ""
        return cls(fault.place_in(grid), f"{fault.reason}{left_out}")

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class GridInfo:
    """The manifest's own facts."""

    name: str
    grid_id: str
    folder: Path
    question: str = ""
    created: str = ""
    parent_run_id: str = ""
    tracking_uri: str = ""
    controls: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reference: str = ""
    tests: tuple[str, ...] = ()


CELL_COLUMNS: Final = ("cell_id", "arm", "seed", "state", "steps_done", "run_id", "error", "axes")


class CellRows(NamedTuple):
    """One cell: its row among the cells, its steps, its configuration, and what could not be read."""

    listed: ManifestCell
    state: str
    row: dict[str, object]
    steps: pd.DataFrame
    config: dict[str, object]
    missing: list[Missing]


def grid_info(folder: Path, only: str | None) -> tuple[GridInfo, list[ManifestCell]]:
    """Read the manifest: the grid's own facts, and its cells, or `only` one, retired ones included."""
    manifest = read_manifest(folder)
    cells = list(manifest.cells)
    if only is not None:
        cells = [c for c in (*manifest.cells, *manifest.retired) if c.cell_id == only]
    info = GridInfo(
        name=manifest.grid,
        grid_id=manifest.grid_id,
        folder=folder,
        question=manifest.question,
        created=manifest.created,
        parent_run_id=manifest.parent_run_id,
        tracking_uri=manifest.tracking_uri,
        controls=manifest.controls,
        notes=manifest.notes,
        reference=manifest.reference,
        tests=manifest.tests,
    )
    return info, cells


def cell_rows(grid: Path, listed: ManifestCell, *, live: bool) -> CellRows:
    """Read a cell's files as far as they can be read."""
    run = GridFolder(grid).run(listed.cell_id)
    faults: list[Fault] = []
    record = CellRecord(
        listed.cell_id, listed.arm, listed.seed, grid.name, listed.run_id, listed.state
    )
    config: dict[str, object] = {}
    # The manifest may lag behind: a worker writes its own state, the parent writes the manifest.
    if run.path.is_dir():
        record = _first(scan_cell(run.path), record, faults)
        config = _first(scan_config(run.path), config, faults)
    (record,) = killed_if_not_live([record], live=live)
    row = {
        "cell_id": listed.cell_id,
        "arm": listed.arm,
        "seed": listed.seed,
        "state": record.state,
        "steps_done": record.steps_done,
        "run_id": record.run_id or listed.run_id,
        "error": record.error or "",
        "axes": listed.axes,
        **headline(config),
    }
    lines, unread = scan_steps(run.path)
    faults += scan_batching(run.path).faults
    missing = [Missing.of(fault, grid) for fault in (*faults, *unread)]
    if not run.metrics.is_file() and record.state != "pending":
        where = Fault(run.metrics, "").place_in(grid)
        missing.append(Missing(where, f"no metrics, though the cell is {record.state}"))
    return CellRows(listed, record.state, row, _steps(row, lines), config, missing)


def _first(contents: Contents[Row], default: Row, faults: list[Fault]) -> Row:
    faults += contents.faults
    return contents.rows[0] if contents.rows else default


def _steps(row: dict[str, object], lines: Iterable[Step]) -> pd.DataFrame:
    # A step that is there twice was taken again: its last line counts.
    by_step = {line.step: line.metrics for line in lines}
    if not by_step:
        return pd.DataFrame()
    steps = sorted(by_step)
    owner = pd.DataFrame(
        {name: row[name] for name in ("cell_id", "arm", "seed")}, range(len(steps))
    )
    keys = list(dict.fromkeys(key for step in steps for key in by_step[step]))
    # By way of an array: pandas takes ten times as long to find out that numbers are numbers.
    values = np.array([[by_step[step].get(key) for key in keys] for step in steps], float)
    logged = pd.DataFrame(values.reshape(len(steps), len(keys)), columns=keys)
    return pd.concat([owner.assign(step=steps), logged], axis=1)


def section(config: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Read a section of a stored configuration; empty where it is missing or something else."""
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def headline(config: Mapping[str, object]) -> dict[str, object]:
    """Pick the config fields that tables and legends show, leniently, so that old runs stay readable."""
    rollout, train = section(config, "rollout"), section(config, "train")
    objective, noise = section(config, "objective"), section(config, "perturbation")
    ratio = section(objective, "ratio")
    return {
        "model": config.get("model"),
        "task": section(config, "task").get("name"),
        "engine": rollout.get("engine"),
        "precision": rollout.get("weights") or rollout.get("kv_cache_dtype"),
        "steps_planned": train.get("steps"),
        "updates_per_rollout": train.get("updates_per_rollout"),
        "lr": train.get("lr"),
        "eval_k": section(config, "eval").get("k"),
        "denominator": ratio.get("denominator"),
        "level": ratio.get("level"),
        "surrogate": section(objective, "surrogate").get("kind"),
        "bounds": _bounds(objective, rollout),
        "site": noise.get("site"),
        "layers": str(noise["layers"]) if "layers" in noise else None,
        "sigma": section(noise, "sigma").get("init"),
    }


def _bounds(
    objective: Mapping[str, object], rollout: Mapping[str, object]
) -> dict[str, tuple[str, ...]]:
    try:
        chosen = FilterConfig.model_validate(rollout.get("filter") or {})
        overlong = rollout.get("overlong", "keep")
        samples = sample_bounds(chosen, cast(Overlong, overlong))
        return ObjectiveConfig.model_validate(objective).bounds | samples
    except ValidationError:  # written by another version: its bounds are unknown, not absent
        return {}
