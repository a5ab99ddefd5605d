"""From an ablation to its cells: layering, axes, collapse, control arms, ids.

Precedence: defaults < base < preset < arm < axis < `--set`. A field that an arm has no use for
(`perturbation.*` without a perturbation, `objective.weight.upper` without a weight) does not
vary that arm. An axis over the whole of `perturbation` is explicit and reaches every arm.

Usage: `grid = expand(load_ablation(path)); grid.cells[0].config`.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from alpkit.config.ablation import Ablation, LaunchConfig, arm_name
from alpkit.config.explain import faults_of, leaves
from alpkit.config.layers import Layers, is_kind
from alpkit.config.presets import PRESETS
from alpkit.config.run import RunConfig
from alpkit.config.yaml import Document, Fault, KeyPath, config_error
from alpkit.errors import ConfigError, GridError

_VERDICT_SEEDS = 3
_SHORT = {"perturbation.sigma.init": "sigma", "task.name": "task"}


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    cell_id: str
    arm: str
    seed: int
    axes: dict[str, Any]
    """The varied fields that this arm uses, dotted, with this cell's values."""
    config: RunConfig
    control_of: str | None = None
    """The first perturbed arm whose sigma = 0 twin this cell's arm is; `Grid.controls` has all."""


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
    """What expansion did: arms added, cells merged, axes without effect."""
    warnings: tuple[str, ...]
    launch: LaunchConfig

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, in order."""
        return tuple(dict.fromkeys(cell.arm for cell in self.cells))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(cell.seed for cell in self.cells))

    def manifest(self) -> dict[str, Any]:
        """JSON-ready summary, without the configs."""
        return {
            "grid": self.name,
            "grid_id": self.grid_id,
            "question": self.question,
            "cells": [
                {"cell_id": c.cell_id, "arm": c.arm, "seed": c.seed, "axes": c.axes}
                for c in self.cells
            ],
            "controls": self.controls,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


class _Value(NamedTuple):
    """A value to lay over a run field, and where it stands."""

    value: Any
    source: Document
    at: KeyPath


_Assignments = Mapping[str, _Value]


class _Point(NamedTuple):
    """An arm with its axis values: a cell without its seed."""

    arm: str
    base_arm: str
    axes: dict[str, Any]
    config: RunConfig


def expand(ablation: Ablation) -> Grid:
    """Expand an ablation to its grid; raises `ConfigError` with every fault of every cell."""
    expansion = _Expansion(ablation)
    points = expansion.merged(expansion.points())
    points, controls = expansion.with_controls(points)
    control_of: dict[str, str] = {}
    for perturbed, control in controls.items():
        control_of.setdefault(control, perturbed)
    cells = []
    for seed in ablation.config.seeds:
        for point in points:
            config = point.config.model_copy(update={"seed": seed})
            of = control_of.get(point.arm)
            cells.append(Cell(config.cell_id(), point.arm, seed, point.axes, config, of))
    ids = [cell.cell_id for cell in cells]
    if len(set(ids)) != len(ids) or len({(c.arm, c.seed) for c in cells}) != len(cells):
        raise GridError("two cells share an id or a name", fix="report this as a bug")
    name = ablation.config.name
    return Grid(
        name=name,
        question=ablation.config.question,
        grid_id=hashlib.sha256(json.dumps([name, *sorted(ids)]).encode()).hexdigest()[:10],
        cells=tuple(cells),
        controls=controls,
        notes=tuple(expansion.notes),
        warnings=(*expansion.warnings, *_warnings(ablation, points)),
        launch=ablation.config.launch,
    )


class _Expansion:
    """The steps of `expand`, which share the ablation, notes, warnings and faults."""

    def __init__(self, ablation: Ablation) -> None:
        self.ablation = ablation
        self.document = ablation.document
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.faults: dict[tuple[str, str], Fault] = {}
        self.fixed = {
            ".".join(o.path): _Value(o.value, Document.constant(o.value, o.where), ())
            for o in ablation.overrides
        }

    def points(self) -> list[_Point]:
        """Every arm with every combination that it uses, before merging."""
        config = self.ablation.config
        combinations = list(self._combinations())
        hits = [0] * len(config.exclude)
        used: dict[str, list[str]] = {}
        points: list[_Point] = []
        for i, entry in enumerate(config.arms):
            name, layers = arm_name(entry), self._arm(i)
            seen: set[str] = set()
            for values in (*combinations, *self._included(name)):
                point = self._point(name, layers, values)
                key = json.dumps(point.axes, sort_keys=True) if point else ""
                if point is None or key in seen:
                    continue
                for axis in point.axes:
                    used.setdefault(axis, []).append(name)
                extra = any(v.at[0] == "include" for v in values.values())
                matches = [j for j, rule in enumerate(config.exclude) if _matches(rule, point)]
                for j in matches:
                    hits[j] += 1
                if extra or not matches:
                    seen.add(key)
                    points.append(point)
        if self.faults:
            raise config_error(self.faults.values())
        if not points:
            where = self.document.position(("exclude",), key=True)
            raise ConfigError("exclude leaves no cell", where=where)
        self._note_axes(used, hits)
        return points

    def merged(self, points: list[_Point]) -> list[_Point]:
        """Keep the first of the points whose validated configs are equal."""
        first: dict[str, _Point] = {}
        names: dict[str, _Point] = {}
        for point in points:
            same = first.setdefault(point.config.cell_id(), point)
            if same is not point:
                self.notes.append(f"{point.arm!r} is {same.arm!r} after validation: merged")
            elif names.setdefault(point.arm, point) is not point:
                raise ConfigError(
                    f"two different arms would be named {point.arm!r}",
                    where=self.document.position(("arms",), key=True),
                    fix="give one of the arms another name:",
                )
        return list(first.values())

    def with_controls(self, points: list[_Point]) -> tuple[list[_Point], dict[str, str]]:
        """Pair each perturbed point with its sigma = 0 twin, adding the twins that are missing."""
        by_id = {point.config.cell_id(): point for point in points}
        names = {point.arm for point in points}
        controls: dict[str, str] = {}
        result: list[_Point] = []
        for point in points:
            if point.config.perturbation is not None:
                twin = point.config.model_copy(update={"perturbation": None})
                if twin.cell_id() not in by_id:
                    control = self._control(point, twin, names)
                    by_id[twin.cell_id()] = control
                    names.add(control.arm)
                    result.append(control)
                    self.notes.append(
                        f"added the arm {control.arm!r}: {point.arm!r} without its noise, "
                        "the sigma = 0 control"
                    )
                controls[point.arm] = by_id[twin.cell_id()].arm
            result.append(point)
        return result, controls

    def _control(self, point: _Point, twin: RunConfig, names: set[str]) -> _Point:
        axes = {k: v for k, v in point.axes.items() if k.split(".")[0] != "perturbation"}
        for preset in PRESETS:
            layers = self._layers({"preset": preset}, "the control")
            name = preset + _suffix(axes)
            if name not in names and self._same(layers, axes, twin):
                return _Point(name, preset, axes, twin)
        name = f"{point.base_arm}{_suffix(axes)} sigma=0"
        while name in names:
            name += " (control)"
        return _Point(name, point.base_arm, axes, twin)

    def _same(self, layers: Layers, axes: Mapping[str, Any], twin: RunConfig) -> bool:
        source = Document.constant(None, "the control")
        self._assign(layers, {key: _Value(value, source, ()) for key, value in axes.items()})
        try:
            return RunConfig.model_validate(layers.data).cell_id() == twin.cell_id()
        except ValidationError:
            return False

    def _arm(self, i: int) -> Layers:
        entry = self.ablation.config.arms[i]
        settings = {"preset": entry} if isinstance(entry, str) else entry
        return self._layers(settings, self.document.position(("arms", i)), ("arms", i))

    def _layers(self, settings: Mapping[str, Any], where: str, at: KeyPath = ()) -> Layers:
        layers = Layers(where)
        layers.merge((), self.ablation.config.base, self.document, ("base",))
        if "preset" in settings:
            preset = PRESETS[settings["preset"]].settings
            layers.merge((), preset, Document.constant(preset, where), ())
        own = {k: v for k, v in settings.items() if k not in ("preset", "name")}
        layers.merge((), own, self.document, at)
        return layers

    def _combinations(self) -> Iterator[dict[str, _Value]]:
        """Yield the product of the axes, the zip being one axis more."""
        config = self.ablation.config
        lists: list[list[dict[str, _Value]]] = [
            [{key: self._value(("axes", key, i), v)} for i, v in enumerate(values)]
            for key, values in config.axes.items()
        ]
        if config.zip:
            length = len(next(iter(config.zip.values())))
            lists.append(
                [
                    {k: self._value(("zip", k, i), values[i]) for k, values in config.zip.items()}
                    for i in range(length)
                ]
            )
        for parts in itertools.product(*lists):
            yield {key: value for part in parts for key, value in part.items()}

    def _included(self, arm: str) -> Iterator[dict[str, _Value]]:
        for j, entry in enumerate(self.ablation.config.include):
            if entry["arm"] == arm:
                fields = {k: v for k, v in entry.items() if k != "arm"}
                yield {k: self._value(("include", j, k), v) for k, v in fields.items()}

    def _value(self, at: KeyPath, value: Any) -> _Value:
        return _Value(value, self.document, at)

    def _point(self, name: str, arm: Layers, values: _Assignments) -> _Point | None:
        layers = arm.copy()
        applied = self._assign(layers, values)
        axes = {key: values[key].value for key in values if key in applied}
        full = name + _suffix(axes)
        try:
            config = RunConfig.model_validate(layers.data)
        except ValidationError as error:
            varied = {v.source.position(v.at) for v in (*values.values(), *self.fixed.values())}
            for fault in faults_of(error, layers.document, model=RunConfig):
                # An axis value may be wrong for one arm only: say for which.
                seen = fault.where in varied and not fault.hint
                shown = fault._replace(hint=f"in the arm {full!r}") if seen else fault
                self.faults.setdefault((fault.where, fault.what), shown)
            return None
        return _Point(full, name, axes, config)

    def _assign(self, layers: Layers, values: _Assignments) -> set[str]:
        """Lay the values and the overrides over the layers; return the varied fields that count."""
        applied = set()
        merged = {**values, **self.fixed}
        # Whole sections before their fields, kinds before what they decide: order of axes is moot.
        for key in sorted(merged, key=_depth):
            path = tuple(key.split("."))
            if layers.applies(path):
                layers.merge(path, *merged[key])
                applied.add(key)
        return applied - self.fixed.keys()

    def _note_axes(self, used: Mapping[str, list[str]], hits: list[int]) -> None:
        config = self.ablation.config
        arms = [arm_name(entry) for entry in config.arms]
        for key in (*config.axes, *config.zip):
            idle = [arm for arm in arms if arm not in used.get(key, ())]
            if key in self.fixed:
                self.notes.append(f"--set fixes {key}, so it is no axis")
            elif idle == arms:
                self.warnings.append(f"no arm uses {key}, so varying it changes nothing")
            elif idle:
                self.notes.append(f"{key} has no effect on, and does not vary: {', '.join(idle)}")
        for rule, count in zip(config.exclude, hits, strict=True):
            if not count:
                self.warnings.append(f"exclude {_text(rule)} matches nothing")


def _matches(rule: Mapping[str, Any], point: _Point) -> bool:
    def same(key: str, value: Any) -> bool:
        if key == "arm":
            return bool(value == point.base_arm)
        return key in point.axes and _text(point.axes[key]) == _text(value)

    return all(same(key, value) for key, value in rule.items())


def _warnings(ablation: Ablation, points: Iterable[_Point]) -> Iterator[str]:
    config, train = ablation.config, [(p.arm, p.config) for p in points]
    if len(config.seeds) < _VERDICT_SEEDS:
        yield (
            f"{len(config.seeds)} seed(s): differences get no verdict below {_VERDICT_SEEDS}; "
            "add seeds to be able to conclude anything"
        )
    if len(train) == 1:
        yield "one arm: there is nothing to compare it with"
    if late := [arm for arm, run in train if run.eval.every > run.train.steps]:
        yield f"eval.every is above train.steps, so only step 0 is evaluated: {', '.join(late)}"


def _depth(key: str) -> tuple[int, bool, str]:
    path = tuple(key.split("."))
    return len(path), not is_kind(path), key


def _suffix(axes: Mapping[str, Any]) -> str:
    return "".join(f" {_label(key)}={_text(value)}" for key, value in axes.items())


def _label(key: str) -> str:
    """Shorten a dotted field to the end of it that no other field of a run shares."""
    parts = key.split(".")
    for n in range(1, len(parts)):
        end = ".".join(parts[-n:])
        if key not in _SHORT and sum(f".{leaf}".endswith(f".{end}") for leaf in _LEAVES) <= 1:
            return end
    return _SHORT.get(key, key)


_LEAVES = leaves(RunConfig)


def _text(value: Any) -> str:
    """Write a value as in YAML's flow style, so that equal numbers look equal."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
