"""Checkpoints of a run: enough to go on bit for bit, written atomically, the newest few kept.

`<run>/checkpoint/step-000010/` holds `model.safetensors` (the policy alone, fit for inference: nothing
of the perturbation is in it), `state.pt` (optimizer, log sigma, counters) and the digests of both.
Random streams need no state: they are keyed by (seed, step, ...). `<run>/replay/` holds folders of the
same kind.
"""

import hashlib
import json
import logging
import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Required, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alpkit.errors import TrackingError
from alpkit.runs.disk import writing
from alpkit.runs.folder import set_aside, step_folder, step_folders
from alpkit.runs.swap import remove_unfinished, swapped_folder

_WEIGHTS: Final = "model.safetensors"
_STATE: Final = "state.pt"
_DIGESTS: Final = "digests.json"
"""Neither of the two formats notices a flipped byte; checkpoints of older versions have no such file."""
_UNREADABLE: Final = (
    *(OSError, SafetensorError, RuntimeError, pickle.UnpicklingError),
    *(EOFError, KeyError, ValueError, TypeError, AttributeError),
)
_log = logging.getLogger(__name__)


class DamagedCheckpoint(TrackingError):
    """A checkpoint that is not what was written."""


class History(TypedDict):
    """The sampler's versions: the newest one's number, and the weights of those that are still needed."""

    version: int
    snapshots: dict[int, dict[str, Tensor]]


class Rest(TypedDict, total=False):
    """Whatever a checkpoint holds beside the weights; one for a replay has `step` and `log_sigma` alone."""

    step: Required[int]
    log_sigma: Required[Tensor | None]
    optimizer: dict[str, Any]
    history: History
    spikes: Mapping[str, list[float]]
    receipts: dict[str, int]
    loss_scale: Sequence[float]
    noise: Mapping[str, float]
    unsolved: int
    tokens: int


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, state: Mapping[str, object], *, keep: int | None
) -> None:
    """Write the checkpoint of a step under `folder`, then delete all but the `keep` newest (None: delete none)."""
    # A killed attempt leaves all of a model's weights.
    remove_unfinished(folder)
    with swapped_folder(step_folder(folder, step), last=True) as work:
        weights = {name: value.detach().cpu() for name, value in model.named_parameters()}
        with writing(work / _WEIGHTS):
            save_file(weights, work / _WEIGHTS)
        with writing(work / _STATE):
            torch.save({"step": step, **state}, work / _STATE)
        digests = {name: _digest(work / name) for name in (_WEIGHTS, _STATE)}
        (work / _DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
    for old in [] if keep is None else list(step_folders(folder).values())[:-keep]:
        shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """Find the newest complete checkpoint, if there is one."""
    complete = step_folders(folder)
    return complete[max(complete)] if complete else None


def load_newest(folder: Path, model: nn.Module, *, proved: int, gap: str) -> Rest | None:
    """Take up the newest checkpoint that is whole and not beyond step `proved`; None if there is none.

    The newer ones are set aside and named: `gap` says what is missing of the metrics beside them.
    """
    for step, path in reversed(step_folders(folder).items()):
        if step > proved:
            _log.warning(
                "the checkpoint of step %d is not gone on from: %s; it is kept as %s",
                step,
                gap,
                set_aside(path),
            )
            continue
        try:
            return load_checkpoint(path, model)
        except DamagedCheckpoint as error:
            _log.warning(
                "the checkpoint of step %d is damaged, so the one before it is taken: %s: %s; it is kept as %s",
                step,
                error.where,
                error.why,
                set_aside(path),
            )
    return None


def load_checkpoint(path: Path, model: nn.Module) -> Rest:
    """Load weights into `model` and return the rest.

    Raises `DamagedCheckpoint` for files that cannot be read or are not what was written, `TrackingError`
    for those of another model; `model` is then as it was.
    """
    try:
        _check_digests(path)
        weights = load_file(path / _WEIGHTS)
        state: Rest = torch.load(path / _STATE, weights_only=True, map_location="cpu")
        int(state["step"])
    except DamagedCheckpoint:
        raise
    except _UNREADABLE as error:
        raise _damaged(
            path, f"cannot be read ({(str(error).splitlines() or [''])[0][:200]})"
        ) from error
    parameters = dict(model.named_parameters())
    if weights.keys() != parameters.keys():
        differing = sorted(weights.keys() ^ parameters.keys())[0]
        raise _misfit(path, f"{differing} is in one of them only")
    for name, value in parameters.items():
        if weights[name].shape != value.shape:
            raise _misfit(path, f"{name} has another shape")
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(weights[name])
    return state


def _check_digests(path: Path) -> None:
    if not (path / _DIGESTS).is_file():
        return
    written = json.loads((path / _DIGESTS).read_text(encoding="utf-8"))
    for name in (_WEIGHTS, _STATE):
        if not (path / name).is_file():
            raise _damaged(path / name, "is missing")
        if _digest(path / name) != written[name]:
            raise _damaged(path / name, "is not what was written: its digest is another")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, why: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        "a checkpoint is damaged", where=str(path), why=why, fix="delete it; the one before is used"
    )


def _misfit(path: Path, why: str) -> TrackingError:
    return TrackingError(
        f"the checkpoint does not fit the model: {why}",
        where=str(path),
        fix="remove the checkpoint folder to start this cell again",
    )
