"""A method in a YAML file of its own: a preset that lives outside the package.

The file is written like an arm, with its words for `alpkit methods`:

    name: capped-bypass          # default: the file's name without its ending
    preset: token-bypass         # the preset it starts from; default: grpo
    objective: {surrogate: {epsilon_high: 1.0}}
    formula: clip(rho_t), band [0.5, 2]
    source: our notes of May
    avoid: when the sampler is exact

An ablation file lists such files under `methods:`, and its arms then use their names;
`alpkit replay --methods` and `alpkit methods` take the path.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from alpkit.config.base import Section
from alpkit.config.files.faults import faults_of
from alpkit.config.files.yaml import Document, Fault, config_error, load_yaml
from alpkit.config.grid.overlay import Overlay
from alpkit.config.presets import PRESETS, Preset, preset
from alpkit.config.run import ANY_TURNS, RunConfig
from alpkit.errors import ConfigError

_SETTINGS = ("objective", "perturbation")


class MethodConfig(Section):
    """The contents of a method file."""

    name: str = ""
    """What arms call the method; default: the file's name without its ending."""
    preset: str = "grpo"
    """The preset of the package that it starts from."""
    objective: dict[str, Any] = Field(default_factory=dict)
    """Fields of the objective that differ from that preset's."""
    perturbation: dict[str, Any] | None = None
    """Fields of the perturbation that differ from that preset's."""
    formula: str = ""
    """Formula, for `alpkit methods FILE`."""
    source: str = ""
    """Where the method comes from, for `alpkit methods FILE`."""
    avoid: str = ""
    """When not to use it, for `alpkit methods FILE`."""


class OwnMethod(NamedTuple):
    """A method that was read from a file: its name, its preset, and where each setting stands."""

    name: str
    preset: Preset
    document: Document
    """The settings with their positions in the file."""
    run: RunConfig
    """A run of the method with everything else at its default."""


def is_method_file(name: str) -> bool:
    """Whether a name that the user typed means a file and not a preset."""
    return name not in PRESETS and (name.endswith((".yaml", ".yml")) or Path(name).is_file())


def load_method(path: str | Path) -> OwnMethod:
    """Read and check a method file; raises `ConfigError` with every fault and its position."""
    read = read_method(path)
    if isinstance(read, OwnMethod):
        return read
    raise config_error(read)


def read_method(path: str | Path) -> OwnMethod | list[Fault]:
    """Read a method file, or return every fault in it; raises `ConfigError` where it is no YAML."""
    document = load_yaml(path)
    faults: list[Fault] = []
    config = MethodConfig()
    try:
        config = MethodConfig.model_validate(document.data)
    except ValidationError as error:
        faults += faults_of(error, document, model=MethodConfig)
    overlay = Overlay(str(path))
    try:
        start = preset(document.data.get("preset", "grpo"))
        overlay.merge((), start.settings, Document.constant({}, str(path)), ())
    except ConfigError as error:
        faults.append(Fault(document.position(("preset",)), error.what, error.fix))
    if not faults and not document.data.keys() & {"preset", *_SETTINGS}:
        hint = "write objective:, perturbation: or preset:"
        faults.append(Fault(str(path), "sets nothing", hint))
    for key in _SETTINGS:
        if isinstance(document.data.get(key), dict):
            overlay.merge((key,), document.data[key], document, (key,))
    run = RunConfig()
    try:
        run = RunConfig.model_validate(overlay.data, context={ANY_TURNS: True})
    except ValidationError as error:
        faults += faults_of(error, overlay.document, model=RunConfig)
    given = document.data.get("name")
    name = given if isinstance(given, str) and given else Path(path).stem
    faults += _name_faults(name, document.position(("name",)))
    if faults:
        return faults
    card = Preset(overlay.data, config.formula, config.source, config.avoid)
    return OwnMethod(name, card, overlay.document, run)


def _name_faults(name: str, where: str) -> list[Fault]:
    """Say why the name will not do, if so."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", name):
        hint = (
            "use letters, digits, '.', '_', '-' and '/'; name: says it where the file's name cannot"
        )
        return [Fault(where, f"{name!r} cannot name a method", hint)]
    if name in PRESETS:
        return [
            Fault(
                where,
                f"{name!r} is a preset of the package",
                "give it another name, by name: in the file",
            )
        ]
    return []
