"""An ablation's points: every arm with every combination of axis values that it uses.

Precedence: defaults < named base < base < preset < arm < axis < `--set`. A field that an arm has no use for
(`perturbation.*` without a perturbation, `objective.weight.upper` without a weight) does not
vary that arm. An axis over the whole of `perturbation` is explicit and reaches every arm.
Merging equal points, control arms and seeds are `expand.py`'s.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from alpkit.config.bases import BASES
from alpkit.config.files.faults import faults_of, leaves
from alpkit.config.files.yaml import Document, Fault, KeyPath, config_error
from alpkit.config.grid.ablation import Ablation, arm_name
from alpkit.config.grid.overlay import Overlay, is_kind
from alpkit.config.presets import PRESETS, preset
from alpkit.config.run import RunConfig
from alpkit.errors import ConfigError

_LEAVES = leaves(RunConfig)
_LONGEST = 220
"""Characters of an arm's full name: MLflow's databases keep 250 of a run's."""
_SHORT = {"perturbation.sigma.init": "sigma", "task.name": "task"}


class Point(NamedTuple):
    """An arm with its axis values: a cell without its seed."""

    arm: str
    base_arm: str
    axes: dict[str, object]
    config: RunConfig


class _Value(NamedTuple):
    """A value to lay over a run field, and where it stands."""

    value: Any
    source: Document
    at: KeyPath


class Points:
    """Builds points from an ablation, and collects notes and warnings on the way."""

    def __init__(self, ablation: Ablation) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.runs: list[Mapping[str, Any]] = []
        """The merged fields of every point that was built, sound or not."""
        self._config, self._document = ablation.config, ablation.document
        self._methods = ablation.methods
        self._faults: dict[tuple[str, str], Fault] = {}
        self._fixed = {
            ".".join(o.path): _Value(o.value, Document.constant(o.value, o.where), ())
            for o in ablation.overrides
        }

    def build(self) -> list[Point]:
        """Build the points, arm by arm; raises `ConfigError` with every fault of all of them."""
        combinations = list(self._combinations())
        excluded = [0] * len(self._config.exclude)
        users: dict[str, set[str]] = {}
        points: list[Point] = []
        for i, entry in enumerate(self._config.arms):
            name, overlay = arm_name(entry), self._arm(i)
            built = [self._point(name, overlay, values) for values in combinations]
            # A combination whose values the arm does not use repeats another one.
            distinct: dict[str, Point] = {}
            for point in filter(None, built):
                distinct.setdefault(json.dumps(point.axes, sort_keys=True), point)
            kept = [p for p in distinct.values() if not self._excluded(p, excluded)]
            extra = [self._point(name, overlay, values) for values in self._included(name)]
            known = {json.dumps(p.axes, sort_keys=True) for p in kept}
            kept += [p for p in extra if p and json.dumps(p.axes, sort_keys=True) not in known]
            points += kept
            for point in distinct.values():
                for axis in point.axes:
                    users.setdefault(axis, set()).add(name)
        if self._faults:
            raise config_error(self._faults.values())
        if not points:
            where = self._document.position(("exclude",), key=True)
            raise ConfigError("exclude leaves no cell", where=where)
        self._comment(users, excluded)
        return points

    def without_noise(self, point: Point, taken: set[str]) -> Point:
        """Build the sigma = 0 twin of a perturbed point, named like the preset or method that it equals."""
        twin = point.config.model_copy(update={"perturbation": None})
        axes = {k: v for k, v in point.axes.items() if k.split(".")[0] != "perturbation"}
        for base_arm in (*PRESETS, *self._methods):
            name = base_arm + _suffix(axes)
            if name not in taken and self._is_preset(base_arm, axes, twin):
                return Point(name, base_arm, axes, twin)
        name = f"{point.base_arm}{_suffix(axes)} sigma=0"
        while name in taken:
            name += " (control)"
        return Point(name, point.base_arm, axes, twin)

    def _is_preset(self, name: str, axes: Mapping[str, object], twin: RunConfig) -> bool:
        overlay = self._overlay({"preset": name}, "preset", ())
        nowhere = Document.constant(None, "preset")
        self._assign(overlay, {key: _Value(value, nowhere, ()) for key, value in axes.items()})
        try:
            return RunConfig.model_validate(overlay.data).cell_id() == twin.cell_id()
        except ValidationError:
            return False

    def _arm(self, i: int) -> Overlay:
        entry = self._config.arms[i]
        settings = {"preset": entry} if isinstance(entry, str) else entry
        return self._overlay(settings, self._document.position(("arms", i)), ("arms", i))

    def _overlay(self, settings: Mapping[str, Any], where: str, at: KeyPath) -> Overlay:
        overlay = Overlay(where)
        base = dict(self._config.base)
        if (named := base.pop("from", None)) is not None:
            shared = BASES[named].settings
            place = self._document.position(("base", "from"))
            overlay.merge((), shared, Document.constant(shared, place), ())
        overlay.merge((), base, self._document, ("base",))
        if "preset" in settings:
            name = settings["preset"]
            if name in self._methods:
                overlay.merge(
                    (), self._methods[name].preset.settings, self._methods[name].document, ()
                )
            else:
                method = preset(name).settings
                overlay.merge((), method, Document.constant(method, where), ())
        own = {k: v for k, v in settings.items() if k not in ("preset", "name")}
        overlay.merge((), own, self._document, at)
        return overlay

    def _combinations(self) -> Iterator[dict[str, _Value]]:
        """Yield the product of the axes, the zip being one axis more."""
        lists: list[list[dict[str, _Value]]] = [
            [{key: self._value(("axes", key, i), v)} for i, v in enumerate(values)]
            for key, values in self._config.axes.items()
        ]
        if zipped := self._config.zip:
            lists.append(
                [
                    {key: self._value(("zip", key, i), vs[i]) for key, vs in zipped.items()}
                    for i in range(len(next(iter(zipped.values()))))
                ]
            )
        for parts in itertools.product(*lists):
            yield {key: value for part in parts for key, value in part.items()}

    def _included(self, arm: str) -> Iterator[dict[str, _Value]]:
        for j, entry in enumerate(self._config.include):
            if entry["arm"] == arm:
                fields = {k: v for k, v in entry.items() if k != "arm"}
                yield {k: self._value(("include", j, k), v) for k, v in fields.items()}

    def _value(self, at: KeyPath, value: Any) -> _Value:
        return _Value(value, self._document, at)

    def _point(self, name: str, arm: Overlay, values: Mapping[str, _Value]) -> Point | None:
        overlay = arm.copy()
        applied = self._assign(overlay, values)
        axes = {key: values[key].value for key in values if key in applied}
        full = name + _suffix(axes)
        self.runs.append(overlay.data)
        try:
            config = RunConfig.model_validate(overlay.data)
        except ValidationError as error:
            varied = {v.source.position(v.at) for v in (*values.values(), *self._fixed.values())}
            for fault in faults_of(error, overlay.document, model=RunConfig):
                # An axis value may be wrong for one arm only: say for which.
                unclear = fault.where in varied and not fault.hint
                shown = fault._replace(hint=f"in the arm {full!r}") if unclear else fault
                self._faults.setdefault((fault.where, fault.what), shown)
            return None
        if len(full) > _LONGEST:
            where = self._document.position(("arms",), key=True)
            what = f"an arm with its axis values has a name of more than {_LONGEST} characters"
            self._faults.setdefault((where, what), Fault(where, what, f"{full[:_LONGEST]}…"))
            return None
        return Point(full, name, axes, config)

    def _assign(self, overlay: Overlay, values: Mapping[str, _Value]) -> set[str]:
        """Lay the values and the overrides over the arm; return the varied fields that count."""
        merged = {**values, **self._fixed}
        applied = set()
        # Whole sections before their fields, kinds before what they decide: order of axes is moot.
        for key in sorted(merged, key=_depth):
            path = tuple(key.split("."))
            if overlay.applies(path):
                overlay.merge(path, *merged[key])
                applied.add(key)
        return applied - self._fixed.keys()

    def _excluded(self, point: Point, counts: list[int]) -> bool:
        matches = [j for j, rule in enumerate(self._config.exclude) if _matches(rule, point)]
        for j in matches:
            counts[j] += 1
        return bool(matches)

    def _comment(self, users: Mapping[str, set[str]], excluded: list[int]) -> None:
        arms = [arm_name(entry) for entry in self._config.arms]
        for key in (*self._config.axes, *self._config.zip):
            idle = [arm for arm in arms if arm not in users.get(key, ())]
            if key in self._fixed:
                self.notes.append(f"--set fixes {key}, so it is no axis")
            elif idle == arms:
                self.warnings.append(f"no arm uses {key}, so varying it changes nothing")
            elif idle:
                self.notes.append(f"{key} has no effect on {', '.join(idle)} and does not vary it")
        for rule, count in zip(self._config.exclude, excluded, strict=True):
            if not count:
                self.warnings.append(f"exclude {_text(rule)} matches nothing")


def _matches(rule: Mapping[str, object], point: Point) -> bool:
    return all(
        value == point.base_arm
        if key == "arm"
        else key in point.axes and _text(point.axes[key]) == _text(value)
        for key, value in rule.items()
    )


def _depth(key: str) -> tuple[int, bool, str]:
    path = tuple(key.split("."))
    return len(path), not is_kind(path), key


def _suffix(axes: Mapping[str, object]) -> str:
    return "".join(f" {_label(key)}={_text(value)}" for key, value in axes.items())


def _label(key: str) -> str:
    """Shorten a dotted field to the end of it that no other field of a run shares."""
    parts = key.split(".")
    for n in range(1, len(parts)):
        end = ".".join(parts[-n:])
        if key not in _SHORT and sum(f".{leaf}".endswith(f".{end}") for leaf in _LEAVES) <= 1:
            return end
    return _SHORT.get(key, key)


def _text(value: object) -> str:
    """Write a value as in YAML's flow style, so that equal numbers look equal."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
