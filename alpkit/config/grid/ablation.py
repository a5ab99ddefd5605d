"""The ablation file: its fields, and every check that can be made before the grid is expanded.

Usage: `load_ablation("experiments/quickstart.yaml", ["train.steps=5"])`, then `grid.expand`.
What a cell's merged config may be is checked in `points.py`, after merging.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from alpkit.config.base import Section
from alpkit.config.bases import BASES
from alpkit.config.files.faults import check_path, faults_of
from alpkit.config.files.yaml import (
    Document,
    Fault,
    KeyPath,
    config_error,
    load_yaml,
    parse_yaml,
    shortened,
)
from alpkit.config.grid.overlay import Overlay
from alpkit.config.grid.own_methods import OwnMethod, read_method
from alpkit.config.presets import preset
from alpkit.config.run import RunConfig
from alpkit.config.tracking import TrackingConfig
from alpkit.errors import ConfigError, did_you_mean

_NAME = 100
"""Characters of a name: it is part of paths, of a run's name, and of a report's."""
_OWN_NAME = "give one of them a name of its own: {preset: …, name: another}"
_ARM_FIELDS = {"preset", "name", *RunConfig.model_fields} - {"seed"}


class LaunchConfig(Section):
    """Launcher of the cells, and how many of them run at a time."""

    launcher: Literal["inline", "processes", "ray"] = "processes"
    """inline: one cell after the other in this process; processes: one process per cell; ray: tasks of a Ray
    cluster (docs/scaling.md)."""
    jobs: int | Literal["auto"] = "auto"
    """Cells at the same time; auto: the number of GPUs, else of cores; with ray as many as the cluster has room for."""
    cpus: PositiveInt = 1
    """Cores that a cell asks a Ray cluster for; the other launchers do not use it."""
    gpus: NonNegativeFloat | None = None
    """GPUs that a cell asks a Ray cluster for; default: 1 where it has some; the other launchers do not use it."""

    @field_validator("jobs", mode="before")
    @classmethod
    def _jobs_are_a_count(cls, value: object) -> object:
        if value == "auto" or (isinstance(value, int) and value >= 1 and value is not True):
            return value
        raise ValueError(f"wanted a whole number >= 1 or auto, got {value!r}")


class AblationConfig(Section):
    """The contents of an ablation file."""

    name: str
    """Names the grid's folder and its MLflow experiment; decides no cell id."""
    question: Annotated[str, Field(max_length=2000)] = ""
    """What the grid is to answer, in one sentence."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Run fields that all arms share; `from` names a published base (`config.bases`) that they go over."""
    methods: tuple[str, ...] = ()
    """Method files (YAML), relative to this file; arms name their methods like presets."""
    arms: Annotated[tuple[str | dict[str, Any], ...], Field(min_length=1)]
    """Preset names, or mappings {preset, name, and any run field to override}."""
    axes: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Dotted run fields, each with its values; their product is run."""
    zip: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Dotted run fields with lists of one length that vary together: one more axis."""
    include: tuple[dict[str, Any], ...] = ()
    """Extra combinations {arm, dotted field: value}."""
    exclude: tuple[dict[str, Any], ...] = ()
    """Combinations {arm, axis: value} of the product to leave out."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    """One run of every arm for each; the outermost loop."""
    reference: str = ""
    """The arm that every arm without a sigma = 0 control is compared with; empty: GRPO, else along the axes."""
    tests: tuple[str, ...] = ()
    """Arms whose comparisons are tested, one Holm family; empty: all. Few seeds can bear few tests."""
    launch: LaunchConfig = LaunchConfig()
    """Launcher of the cells, and how many of them run at a time."""
    tracking: TrackingConfig = TrackingConfig()
    """What goes to MLflow."""

    @model_validator(mode="before")
    @classmethod
    def _a_key_without_content_is_absent(cls, data: object) -> object:
        if isinstance(data, dict):
            return {k: v for k, v in data.items() if v is not None or k not in cls.model_fields}
        return data

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, value: str) -> str:
        if value == "latest":
            raise ValueError("'latest' is what the newest grid is called; give it another name")
        if len(value) > _NAME:
            raise ValueError(f"{shortened(value)!r} is longer than {_NAME} characters")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", value):
            raise ValueError(
                f"{value!r} cannot name a folder; use a-z, 0-9, '.', '_' and '-', "
                "and start with a letter or digit"
            )
        return value


class Override(NamedTuple):
    """One value that `--set` gives, with the option's text for messages."""

    path: tuple[str, ...]
    value: Any
    where: str


@dataclass(frozen=True)
class Ablation:
    """A checked ablation file, with the positions of its entries and the `--set` overrides."""

    config: AblationConfig
    document: Document
    overrides: tuple[Override, ...] = ()
    methods: Mapping[str, OwnMethod] = field(default_factory=dict)
    """The methods of the files under `methods:`, by name."""


def load_ablation(path: str | Path, overrides: Sequence[str] = ()) -> Ablation:
    """Read and check an ablation file; `overrides` are `a.b=c` with dotted run fields.

    Raises `ConfigError` that lists every fault with its file:line:column.
    """
    found = examine(path, overrides)
    if found.faults or found.ablation is None:
        raise config_error(found.faults)
    return found.ablation


class Examined(NamedTuple):
    """An ablation file with its faults, and what is left of it without them; None where nothing is."""

    ablation: Ablation | None
    faults: list[Fault]


def examine(path: str | Path, overrides: Sequence[str] = ()) -> Examined:
    """Read an ablation file and list its faults, so that who asks can look for more in the rest of it.

    Raises `ConfigError` where the file is no YAML.
    """
    document = load_yaml(path)
    methods, faults = _methods(document, Path(path).parent)
    # Of arms whose method may be in a faulty file, nothing is said.
    own = None if faults else methods
    faults += [*_base(document), *_arms(document, own), *_fields(document), *_seeds(document)]
    config = None
    try:
        config = AblationConfig.model_validate(document.data)
    except ValidationError as error:
        faults += faults_of(error, document, model=AblationConfig)
    parsed: list[Override] = []
    for text in overrides:
        values, fault = _override(text)
        parsed += values
        faults += [fault] if fault else []
    if config is not None and not faults:
        return Examined(Ablation(config, document, tuple(parsed), methods), [])
    sound = _without(document, faults)
    try:
        config = AblationConfig.model_validate(sound.data)
    except ValidationError:
        return Examined(None, faults)
    return Examined(Ablation(config, sound, tuple(parsed), methods), faults)


def _without(document: Document, faults: Sequence[Fault]) -> Document:
    """Leave out the arms and the keys of the file that faults lie in; base stays, as all arms are laid over it."""
    places = {fault.where for fault in faults}
    marked: dict[KeyPath, set[str]] = {}
    for path, mark in document.marks.items():
        for end in {path[:1], path[:2]}:
            marked.setdefault(end, set()).update(mark)
    arms = document.data.get("arms")
    listed = range(len(arms)) if isinstance(arms, list) else ()
    kept = [i for i in listed if not places & marked.get(("arms", i), set())]
    gone = {
        key
        for key in document.data
        if key not in ("base", "arms", "name") and places & marked.get((key,), set())
    }
    data = {key: value for key, value in document.data.items() if key not in gone}
    data |= {"arms": [arms[i] for i in kept]} if isinstance(arms, list) else {}
    # Of a file whose name will not do, the rest can be looked at all the same.
    data |= (
        {"name": "unnamed"} if places & marked.get(("name",), set()) or "name" not in data else {}
    )
    marks = {path: mark for path, mark in document.marks.items() if path[:1] != ("arms",)}
    for new, old in enumerate(kept):
        marks |= {
            ("arms", new, *path[2:]): mark
            for path, mark in document.marks.items()
            if path[:2] == ("arms", old)
        }
    return Document(data, {("arms",): document.marks.get(("arms",), document.marks[()]), **marks})


def arm_name(entry: str | Mapping[str, Any]) -> str:
    """Return an arm's name: its own, else its preset's."""
    return entry if isinstance(entry, str) else str(entry.get("name", entry.get("preset")))


def _base(document: Document) -> Iterator[Fault]:
    base = document.data.get("base")
    if not isinstance(base, dict):
        return
    reasons = {
        "objective": "it is what arms differ in; put it into an arm",
        "perturbation": "it is what arms differ in; put it into an arm",
        "seed": "cells take it from seeds",
    }
    for key in base.keys() & reasons.keys():
        yield Fault(
            document.position(("base", key), key=True),
            f"{key} is not allowed in base",
            reasons[key],
        )
    named = base.get("from")
    if named is not None and (not isinstance(named, str) or named not in BASES):
        hint = did_you_mean(named, BASES, "bases")
        yield Fault(document.position(("base", "from")), f"{named!r} is not a base", hint)
        return
    own = {k: v for k, v in base.items() if k not in reasons and k != "from"}
    overlay = Overlay(document.position(("base",)))
    if named is not None:
        shared = BASES[named].settings
        overlay.merge(
            (), shared, Document.constant(shared, document.position(("base", "from"))), ()
        )
    overlay.merge((), own, document, ("base",))
    try:
        RunConfig.model_validate(overlay.data)
    except ValidationError as error:
        # What an arm or an axis may still complete or correct is judged on the cells.
        later = ("missing", "value_error", "union_tag_not_found")
        yield from faults_of(error, overlay.document, model=RunConfig, skip=later)


def _methods(document: Document, folder: Path) -> tuple[dict[str, OwnMethod], list[Fault]]:
    """Read the method files; return the methods that are sound, and every fault of the others."""
    paths = document.data.get("methods")
    methods: dict[str, OwnMethod] = {}
    faults: list[Fault] = []
    for i, path in enumerate(paths if isinstance(paths, list) else ()):
        here = document.position(("methods", i))
        if not isinstance(path, str):
            continue
        if not (folder / path).is_file():
            hint = f"paths are relative to {folder}/"
            faults.append(Fault(here, f"methods: there is no file {path}", hint))
            continue
        try:
            method = read_method(folder / path)
        except ConfigError as error:
            faults.append(Fault(error.where or str(folder / path), error.what, error.fix))
            continue
        if isinstance(method, list):
            faults += method
            continue
        if method.name in methods:
            hint = "give one of them another name, by name: in its file"
            faults.append(Fault(here, f"two files define the method {method.name!r}", hint))
        methods.setdefault(method.name, method)
    return methods, faults


def _arms(document: Document, methods: Mapping[str, OwnMethod] | None) -> Iterator[Fault]:
    """Check the arms; `methods` is None where the method files have faults of their own."""
    arms = document.data.get("arms")
    own = {name: method.preset for name, method in (methods or {}).items()}
    first: dict[str, str] = {}
    for i, arm in enumerate(arms if isinstance(arms, list) else ()):
        here = document.position(("arms", i))
        if isinstance(arm, dict):
            yield from _arm_keys(arm, i, document)
        elif not isinstance(arm, str):
            continue
        # An arm with a name and no preset starts from the defaults.
        try:
            named = arm if isinstance(arm, str) else arm.get("preset", "grpo")
            if methods is not None or not isinstance(named, str):
                preset(named, own=own)
        except ConfigError as error:
            where = here if isinstance(arm, str) else document.position(("arms", i, "preset"))
            yield Fault(where, error.what, error.fix)
        if isinstance(arm, str) or _named(arm):
            name = arm_name(arm)
            if name in first:
                what = f"arm {name!r} is listed twice (first at {first[name]})"
                yield Fault(here, what, _OWN_NAME)
            first.setdefault(name, here)


def _named(arm: object) -> bool:
    return isinstance(arm, dict) and bool(arm.keys() & {"preset", "name"})


def _arm_keys(arm: dict[str, Any], i: int, document: Document) -> Iterator[Fault]:
    if not _named(arm):
        yield Fault(document.position(("arms", i)), "an arm needs a preset: or a name:")
    name = arm.get("name", "unnamed")
    if not isinstance(name, str) or not name.isprintable() or name != name.strip() or not name:
        where = document.position(("arms", i, "name"))
        yield Fault(where, f"an arm's name must be one line of text, got {shortened(repr(name))}")
    elif len(name) > _NAME:
        where = document.position(("arms", i, "name"))
        yield Fault(where, f"an arm's name has at most {_NAME} characters, got {len(name)}")
    for key in arm.keys() - _ARM_FIELDS:
        what = f"{key} is not a field of an arm"
        hint = did_you_mean(key, _ARM_FIELDS, "allowed")
        if key == "seed":
            what, hint = "seed is not allowed in an arm", "cells take it from seeds"
        yield Fault(document.position(("arms", i, key), key=True), what, hint)


def _fields(document: Document) -> Iterator[Fault]:
    """Check the dotted fields of axes, zip, include and exclude."""
    data = document.data
    varied = {s: data[s] for s in ("axes", "zip") if isinstance(data.get(s), dict)}
    for section, axes in varied.items():
        for key, values in axes.items():
            where = document.position((section, key), key=True)
            yield from _field(key, where)
            if values == []:
                yield Fault(where, f"{section}.{key} has no values")
            if section == "zip" and key in varied.get("axes", ()):
                yield Fault(where, f"{key} is in axes and in zip", "keep one of them")
    lengths = {k: len(v) for k, v in varied.get("zip", {}).items() if isinstance(v, list)}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key}: {n}" for key, n in lengths.items())
        where = document.position(("zip",), key=True)
        yield Fault(where, f"the lists of zip must have one length, got {listed}")
    arms = data.get("arms") if isinstance(data.get("arms"), list) else []
    names = [arm_name(arm) for arm in arms if isinstance(arm, str) or _named(arm)]
    for section in ("include", "exclude"):
        entries = data.get(section)
        for i, entry in enumerate(entries if isinstance(entries, list) else ()):
            for key in entry if isinstance(entry, dict) else ():
                where = document.position((section, i, key), key=True)
                if key != "arm" and section == "include":
                    yield from _field(key, where)
                elif key != "arm" and not any(key in axes for axes in varied.values()):
                    known = [axis for axes in varied.values() for axis in axes]
                    hint = did_you_mean(key, known, "axes")
                    yield Fault(where, f"exclude: no axis varies {key}", hint)
            arm = entry.get("arm") if isinstance(entry, dict) else None
            if section == "include" and isinstance(entry, dict) and "arm" not in entry:
                yield Fault(document.position((section, i)), "include: an entry needs an arm:")
            elif arm is not None and arm not in names:
                where = document.position((section, i, "arm"))
                hint = did_you_mean(arm, names, "arms")
                yield Fault(where, f"{section}: there is no arm {arm!r}", hint)


def _field(key: str, where: str) -> Iterator[Fault]:
    fault = check_path(RunConfig, tuple(key.split(".")), where)
    if key == "seed":
        fault = Fault(where, "seed cannot be varied here", "cells take it from seeds")
    if fault:
        yield fault


def _seeds(document: Document) -> Iterator[Fault]:
    seeds = document.data.get("seeds")
    known: set[int] = set()
    for i, seed in enumerate(seeds if isinstance(seeds, list) else ()):
        where = document.position(("seeds", i))
        if isinstance(seed, bool):
            yield Fault(where, f"seeds[{i}]: wanted a whole number, got {str(seed).lower()}")
        elif isinstance(seed, int) and seed in known:
            yield Fault(where, f"seed {seed} is listed twice", "remove one of them")
        elif isinstance(seed, int):
            known.add(seed)


def _override(text: str) -> tuple[list[Override], Fault | None]:
    where = f"--set {shortened(text)}"
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        return [], Fault(where, "wanted field=value", "for example --set train.steps=5")
    try:
        parsed = parse_yaml(value, "value").data
    except ConfigError as error:
        return [], Fault(where, error.what)
    faults = list(_field(dotted.strip(), where))
    path = tuple(dotted.strip().split("."))
    return list(_flatten(path, parsed, where)), faults[0] if faults else None


def _flatten(path: tuple[str, ...], value: Any, where: str) -> Iterator[Override]:
    """Spread a mapping over its leaves: an override wins against an axis leaf by leaf."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _flatten((*path, key), below, where)
    else:
        yield Override(path, value, where)
