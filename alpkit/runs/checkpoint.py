"""Checkpoints of a run: enough to go on bit for bit, written atomically, the newest few kept.

`<run>/checkpoint/step-000010/` holds `model.safetensors` (the policy alone, fit for inference: nothing
of the perturbation is in it) and `state.pt` (optimizer, log sigma, counters). Random streams need no
state: they are keyed by (seed, step, ...).
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from alpkit.errors import TrackingError


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, state: dict[str, Any], *, keep: int | None
) -> None:
    """Write step's checkpoint under `folder`, then drop all but the `keep` newest (None: none)."""
    target = _path(folder, step)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {name: value.detach().cpu() for name, value in model.named_parameters()}
    save_file(weights, partial / "model.safetensors")
    torch.save({"step": step, **state}, partial / "state.pt")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in [] if keep is None else sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    return max(folder.glob("step-*"), default=None)


def load_checkpoint(path: Path, model: nn.Module) -> dict[str, Any]:
    """Load weights into `model` and return the rest; `TrackingError` when they do not fit it."""
    weights = load_file(path / "model.safetensors")
    own = dict(model.named_parameters())
    if weights.keys() != own.keys():
        differing = sorted(weights.keys() ^ own.keys())[0]
        raise TrackingError(
            f"the checkpoint does not fit the model: {differing} is in one of them only",
            where=str(path),
            fix="remove the checkpoint folder to start this cell again",
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
    state: dict[str, Any] = torch.load(path / "state.pt", weights_only=True, map_location="cpu")
    return state


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"
