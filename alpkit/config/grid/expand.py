"""From an ablation to its grid: equal points merged, control arms added, seeds and ids.

Usage: `grid = expand(load_ablation(path)); grid.cells[0].config`. How an arm and its axis values
become one config is in `points.py`.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

from alpkit.config.files.yaml import Fault
from alpkit.config.grid.ablation import Ablation, LaunchConfig, examine
from alpkit.config.grid.cautions import cautions
from alpkit.config.grid.comparisons import MIN_SEEDS, Comparison, compare_arms, is_named, told
from alpkit.config.grid.points import Point, Points
from alpkit.config.run import RunConfig
from alpkit.config.tracking import DEFAULT
from alpkit.errors import ConfigError, GridError, did_you_mean


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    cell_id: str
    arm: str
    seed: int
    axes: dict[str, object]
    """The varied fields that this arm uses, dotted, with this cell's values."""
    config: RunConfig


@dataclass(frozen=True)
class Grid:
    """An expanded ablation: cells in the order in which they run."""

    name: str
    question: str
    grid_id: str
    cells: tuple[Cell, ...]
    controls: dict[str, str]
    """Perturbed arm -> its control arm."""
    notes: tuple[str, ...]
    """Notes on the expansion: arms added, cells merged, axes without effect."""
    warnings: tuple[str, ...]
    """Reasons why the grid may answer less than it seems to."""
    launch: LaunchConfig
    metrics: tuple[str, ...] = (DEFAULT,)
    """Patterns of the metrics that go to MLflow."""
    reference: str = ""
    """The arm that the file compares others with; empty: none named."""
    tests: tuple[str, ...] = ()
    """The arms whose comparisons the file wants tested; empty: all of them."""

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """List the comparisons of arms, and say which of them are tests."""
        first = {cell.arm: cell for cell in reversed(self.cells)}
        configs = {arm: first[arm].config.model_dump(mode="json") for arm in self.arms}
        for config in configs.values():
            del config["seed"]
        axes = {arm: cell.axes for arm, cell in first.items()}
        return tuple(
            compare_arms(
                configs,
                controls=self.controls,
                axes=axes,
                reference=self.reference,
                tests=self.tests,
            )
        )

    def planned_tests(self) -> tuple[str, ...]:
        """Say which comparisons will be tested and which cannot be, a line each."""
        seeds = len({cell.seed for cell in self.cells})
        return tuple(told(self.arms, self.comparisons, seeds))

    @property
    def arms(self) -> tuple[str, ...]:
        """List the names of the arms, in order."""
        return tuple(dict.fromkeys(cell.arm for cell in self.cells))

    def manifest(self) -> dict[str, object]:
        """Give a JSON-ready summary, without the configs."""
        return {
            "grid": self.name,
            "grid_id": self.grid_id,
            "question": self.question,
            "cells": [
                {"cell_id": c.cell_id, "arm": c.arm, "seed": c.seed, "axes": c.axes}
                for c in self.cells
            ],
            "controls": dict(self.controls),
            "metrics": list(self.metrics),
            "reference": self.reference,
            "tests": list(self.tests),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


MANY: Final = 10_000
"""Cells above which a grid is asked about: more often a slip than an intention."""
_MOST: Final = 1_000_000


def expand(ablation: Ablation, *, many: bool = False) -> Grid:
    """Expand an ablation to its grid; raises `ConfigError` with every fault of every cell.

    More than 10,000 cells are an error unless `many`.
    """
    return _expand(ablation, Points(ablation), many=many)


def _expand(ablation: Ablation, points: Points, *, many: bool) -> Grid:
    _refuse_too_many(ablation, many=many)
    config = ablation.config
    distinct, merges = _merge(points.build(), ablation)
    paired, controls, additions = _pair(distinct, points)
    cells = tuple(_cells(paired, config.seeds))
    ids = [cell.cell_id for cell in cells]
    if len(set(ids)) != len(ids) or len({(c.arm, c.seed) for c in cells}) != len(cells):
        raise GridError("two cells share an id or a name", fix="report this as a bug")
    grid = Grid(
        name=config.name,
        question=config.question,
        grid_id=hashlib.sha256(json.dumps([config.name, *sorted(ids)]).encode()).hexdigest()[:10],
        cells=cells,
        controls=controls,
        notes=(*points.notes, *merges, *additions),
        warnings=(*points.warnings, *_warnings(ablation, paired)),
        launch=config.launch,
        metrics=config.tracking.metrics,
        reference=config.reference,
        tests=config.tests,
    )
    _check_comparisons(grid, ablation)
    return grid


class Reading(NamedTuple):
    """A grid file, read as far as it goes: its grid if nothing is wrong, and all that is."""

    grid: Grid | None
    faults: list[Fault]
    runs: list[Mapping[str, Any]]
    """The merged run fields of every arm and axis value, checked or not: others look into them."""


def read_grid(path: str | Path, overrides: Sequence[str] = (), *, many: bool = False) -> Reading:
    """Read and expand an ablation file, and list the faults of both together.

    Raises `ConfigError` where the file is no YAML, and `GridError` for too many cells.
    """
    ablation, faults = examine(path, overrides)
    if ablation is None:
        return Reading(None, faults, [])
    points = Points(ablation)
    try:
        if not faults:
            return Reading(_expand(ablation, points, many=many), [], points.runs)
        _refuse_too_many(ablation, many=many)
        points.build()
    except ConfigError as error:
        faults += error.faults or [Fault(error.where, error.what, error.fix)]
    return Reading(None, faults, points.runs)


def _check_comparisons(grid: Grid, ablation: Ablation) -> None:
    """Refuse a `reference:` or a `tests:` entry that no arm of the expanded grid answers to."""
    named: list[tuple[str, tuple[str | int, ...]]] = [
        (name, ("tests", i)) for i, name in enumerate(grid.tests)
    ]
    named += [(grid.reference, ("reference",))] if grid.reference else []
    for name, at in named:
        where = ablation.document.position(at)
        if not any(is_named(arm, name) for arm in grid.arms):
            raise ConfigError(
                f"{at[0]}: there is no arm {name!r}",
                where=where,
                why=f"the arms are: {', '.join(grid.arms)}",
                fix=did_you_mean(name, grid.arms) or "use one of them",
            )
        compared = any(is_named(c.arm, name) for c in grid.comparisons)
        if at[0] == "tests" and not compared:
            raise ConfigError(
                f"tests: {name!r} has nothing to be tested against",
                where=where,
                why="it has no control, no reference and no axis with another value",
                fix="take it out of tests, or name a reference: ARM",
            )


def _refuse_too_many(ablation: Ablation, *, many: bool) -> None:
    config = ablation.config
    points = len(config.arms) * math.prod(len(values) for values in config.axes.values())
    points *= max((len(values) for values in config.zip.values()), default=1)
    cells = (points + len(config.include)) * len(config.seeds)
    if cells > (_MOST if many else MANY):
        raise GridError(
            f"the grid has up to {cells:,} cells",
            where=ablation.document.position(("axes" if config.axes else "seeds",), key=True),
            why="every arm with every combination of axis values and every seed is a run",
            fix=f"no grid may have more than {_MOST:,}; cut its axes or seeds"
            if cells > _MOST
            else "cut its axes or seeds, or say --yes if you mean it",
        )


def _merge(points: list[Point], ablation: Ablation) -> tuple[list[Point], list[str]]:
    """Keep the first of the points whose validated configs are equal; note the others."""
    first: dict[str, Point] = {}
    names: dict[str, Point] = {}
    notes: dict[str, None] = {}
    for point in points:
        same = first.setdefault(point.config.cell_id(), point)
        if same is not point:
            if same.arm != point.arm:
                notes[f"{point.arm!r} has the same config as {same.arm!r}: merged"] = None
        elif names.setdefault(point.arm, point) is not point:
            raise ConfigError(
                f"two different arms would be named {point.arm!r}",
                where=ablation.document.position(("arms",), key=True),
                fix="give one of the arms another name, by name: in it",
            )
    return list(first.values()), list(notes)


def _pair(points: list[Point], build: Points) -> tuple[list[Point], dict[str, str], list[str]]:
    """Pair each perturbed point with its sigma = 0 twin, putting missing twins before it."""
    by_id = {point.config.cell_id(): point.arm for point in points}
    controls: dict[str, str] = {}
    paired: list[Point] = []
    notes: list[str] = []
    for point in points:
        if point.config.perturbation is not None:
            twin = build.without_noise(point, set(by_id.values()))
            cell_id = twin.config.cell_id()
            if cell_id not in by_id:
                by_id[cell_id] = twin.arm
                paired.append(twin)
                notes.append(
                    f"added the arm {twin.arm!r}: {point.arm!r} without its noise, "
                    "the sigma = 0 control"
                )
            controls[point.arm] = by_id[cell_id]
        paired.append(point)
    return paired, controls, notes


def _cells(points: list[Point], seeds: tuple[int, ...]) -> Iterator[Cell]:
    for seed in seeds:
        for point in points:
            config = point.config.model_copy(update={"seed": seed})
            yield Cell(
                cell_id=config.cell_id(),
                arm=point.arm,
                seed=seed,
                axes=point.axes,
                config=config,
            )


def _warnings(ablation: Ablation, points: list[Point]) -> Iterator[str]:
    seeds = len(ablation.config.seeds)
    if seeds < MIN_SEEDS:
        yield (
            f"{seeds} seed{'s' if seeds > 1 else ''}: the report gives no verdict on differences "
            f"below {MIN_SEEDS}"
        )
    if len(points) == 1:
        yield "one arm: there is nothing to compare it with"
    late = [p.arm for p in points if p.config.eval.every > p.config.train.steps]
    if late:
        yield (
            "eval.every is above train.steps, so only step 0 is evaluated: "
            f"{late[0]!r}{f' and {len(late) - 1} more' if len(late) > 1 else ''}"
        )
    yield from cautions({point.arm: point.config for point in points})
