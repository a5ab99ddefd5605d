"""Checkpoints of a run: enough to go on bit for bit, written atomically, the newest few kept.

`<run>/checkpoint/step-000010/` holds `model.safetensors` (the policy alone, fit for inference: nothing
of the perturbation is in it) and `state.pt` (optimizer, log sigma, counters). Random streams need no
state: they are keyed by (seed, step, ...). `<run>/replay/` holds folders of the same kind.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from alpkit.errors import TrackingError
from alpkit.runs.folder import step_folder, step_folders
from alpkit.runs.swap import remove_unfinished, swapped_folder

_WEIGHTS: Final = "model.safetensors"
_STATE: Final = "state.pt"


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, state: Mapping[str, object], *, keep: int | None
) -> None:
    """Write the checkpoint of a step under `folder`, then delete all but the `keep` newest (None: delete none)."""
    # A killed attempt leaves all of a model's weights.
    remove_unfinished(folder)
    with swapped_folder(step_folder(folder, step)) as work:
        weights = {name: value.detach().cpu() for name, value in model.named_parameters()}
        save_file(weights, work / _WEIGHTS)
        torch.save({"step": step, **state}, work / _STATE)
    for old in [] if keep is None else list(step_folders(folder).values())[:-keep]:
        shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """Find the newest complete checkpoint, if there is one."""
    complete = step_folders(folder)
    return complete[max(complete)] if complete else None


def load_checkpoint(path: Path, model: nn.Module) -> dict[str, Any]:
    """Load weights into `model` and return the rest; `TrackingError` when they do not fit it."""
    weights = load_file(path / _WEIGHTS)
    parameters = dict(model.named_parameters())
    if weights.keys() != parameters.keys():
        differing = sorted(weights.keys() ^ parameters.keys())[0]
        raise TrackingError(
            f"the checkpoint does not fit the model: {differing} is in one of them only",
            where=str(path),
            fix="remove the checkpoint folder to start this cell again",
        )
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(weights[name])
    state: dict[str, Any] = torch.load(path / _STATE, weights_only=True, map_location="cpu")
    return state
