"""Whether the present device holds a grid's cells, and which keys to change where it does not.

    for fit in fits(grid.cells, grid.launch.jobs):
        print(fit.total, fit.device.bytes, fit.holds, fit.changes)

Asks no torch: a model's sizes come from its config.json, a GPU's memory from its driver.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

from alpkit.config import Cell, RunConfig
from alpkit.errors import AlpkitError
from alpkit.launch.base import cores, visible_gpus
from alpkit.policy.needs import MOST_ROWS, Needs, machine_bytes, needs, prompt_tokens
from alpkit.policy.shapes import Shape, read_shape

_USABLE: Final = 0.95
"""Share of a device's memory that cells may have; the rest is the system's."""
_FEWEST_ROWS: Final = 8
"""Sequences generated at once below which nobody would want to wait."""


class Device(NamedTuple):
    """Device that cells run on: one GPU or this machine, its memory, and how many cells share it."""

    name: str
    bytes: int
    gpu: bool
    cells: int


class Change(NamedTuple):
    """A key that makes a cell smaller, and the bytes that a cell needs after it and those before it."""

    key: str
    value: str
    left: int


@dataclass(frozen=True)
class Fit:
    """Need of cells of one size, beside the device that each of them runs on; None: the model is not known."""

    arms: tuple[str, ...]
    model: str
    device: Device
    exact: bool
    needs: Needs | None
    changes: tuple[Change, ...] = ()
    """In the order in which they were made; none where the device holds the cells as they are."""
    prompt: int = 0
    """Tokens of a prompt that were reckoned with."""

    @property
    def total(self) -> int:
        """Bytes of the device that its cells take together."""
        return 0 if self.needs is None else self.device.cells * self.needs.total

    @property
    def holds(self) -> bool:
        return self.total <= _USABLE * self.device.bytes

    @property
    def can_hold(self) -> bool:
        """Whether the changes, if any, are enough."""
        left = self.changes[-1].left * self.device.cells if self.changes else self.total
        return left <= _USABLE * self.device.bytes


def fits(cells: Sequence[Cell], jobs: int | Literal["auto"]) -> list[Fit]:
    """Compare every arm's need with the device, arms of equal need together."""
    device = present_device(jobs, len(cells))
    shapes: dict[tuple[str, str | None], Shape | None] = {}
    arms: dict[tuple[object, ...], list[str]] = {}
    first: dict[tuple[object, ...], tuple[RunConfig, Needs | None]] = {}
    for cell in cells:
        config = cell.config
        origin = (config.model, config.revision)
        if origin not in shapes:
            shapes[origin] = _shape(*origin)
        shape = shapes[origin]
        found = None if shape is None else _needs(shape, config, device)
        key = (config.model, found and tuple(found.parts.items()))
        first.setdefault(key, (config, found))
        if cell.arm not in arms.setdefault(key, []):
            arms[key].append(cell.arm)
    return [
        _fit(tuple(arms[key]), config, found, shapes[config.model, config.revision], device)
        for key, (config, found) in first.items()
    ]


def present_device(jobs: int | Literal["auto"], cells: int) -> Device:
    """Describe the device that a cell started here would get."""
    gpus = visible_gpus()
    at_once = jobs if isinstance(jobs, int) else len(gpus) or len(cores())
    at_once = max(1, min(at_once, cells))
    if gpus and (found := _gpu()) is not None:
        return Device(*found, gpu=True, cells=-(-at_once // len(gpus)))
    return Device("this machine", machine_bytes(), gpu=False, cells=at_once)


def _fit(
    arms: tuple[str, ...],
    config: RunConfig,
    found: Needs | None,
    shape: Shape | None,
    device: Device,
) -> Fit:
    if found is None or shape is None:
        return Fit(arms, config.model, device, exact=False, needs=None)
    prompt = prompt_tokens(config)
    fit = Fit(arms, config.model, device, exact=shape.exact, needs=found, prompt=prompt)
    return fit if fit.holds else replace(fit, changes=_changes(shape, config, device))


def _changes(shape: Shape, config: RunConfig, device: Device) -> tuple[Change, ...]:
    """Make the cell smaller where it is largest, until the device holds it or nothing is left to change."""
    made: dict[str, Change] = {}
    while (idea := _idea(shape, config, device)) is not None:
        config = _changed(config, *idea)
        left = _needs(shape, config, device).total
        key, value = idea
        made[key] = Change(key, str(value).lower(), left)
        if left * device.cells <= _USABLE * device.bytes:
            break
    return tuple(made.values())


def _idea(shape: Shape, config: RunConfig, device: Device) -> tuple[str, Any] | None:
    """Give the next key and value for the largest phase of a step, else for the sampler; None: none is left."""
    phases, hardware = _needs(shape, config, device).phases, config.hardware
    longest = prompt_tokens(config) + config.rollout.max_tokens
    match max(phases, key=lambda name: phases[name]):
        case "an update" if hardware.micro_batch_tokens >= 2 * longest:
            return "hardware.micro_batch_tokens", hardware.micro_batch_tokens // 2
        case "an update" if not hardware.checkpoint_layers:
            return "hardware.checkpoint_layers", True
        case "sampling" if (rows := hardware.rollout_batch or MOST_ROWS) > _FEWEST_ROWS:
            return "hardware.rollout_batch", rows // 2
        case "an evaluation" if (rows := hardware.eval_batch or MOST_ROWS) > _FEWEST_ROWS:
            return "hardware.eval_batch", rows // 2
    if config.rollout.engine == "vllm" and device.gpu and hardware.sampler_share > 0.2:
        return "hardware.sampler_share", round(hardware.sampler_share - 0.1, 2)
    if config.rollout.engine == "vllm" and not device.gpu and hardware.sampler_kv_gib > 0.25:
        return "hardware.sampler_kv_gib", hardware.sampler_kv_gib / 2
    if config.train.optimizer != "adamw_8bit":
        return "train.optimizer", "adamw_8bit"  # last: unlike the others it makes another cell
    return None


def _changed(config: RunConfig, key: str, value: object) -> RunConfig:
    section, name = key.split(".")
    part = getattr(config, section).model_copy(update={name: value})
    return config.model_copy(update={section: part})


def _needs(shape: Shape, config: RunConfig, device: Device) -> Needs:
    return needs(shape, config, gpu_bytes=device.bytes if device.gpu else None)


def _shape(model: str, revision: str | None) -> Shape | None:
    try:
        return read_shape(model, revision)
    except AlpkitError:
        return None  # a launch says what is wrong with it


def _gpu() -> tuple[str, int] | None:
    """Give name and memory of the smallest visible GPU, as its driver tells them."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        found = [line.rsplit(",", 1) for line in told.stdout.splitlines() if "," in line]
        sizes = [(int(mib) << 20, name.strip()) for name, mib in found]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    size, name = min(sizes, default=(0, ""))
    return (name, size) if size else None


def rows(found: Sequence[Fit]) -> list[Mapping[str, object]]:
    """Make one JSON-ready row per need."""
    return [
        {
            "arms": list(fit.arms),
            "model": fit.model,
            "device": fit.device.name,
            "device_bytes": fit.device.bytes,
            "cells_at_once": fit.device.cells,
            "parts": None if fit.needs is None else fit.needs.parts,
            "bytes": None if fit.needs is None else fit.needs.total,
            "holds": None if fit.needs is None else fit.holds,
            "changes": [change._asdict() for change in fit.changes],
        }
        for fit in found
    ]
