"""Care for log sigma inside a foreign trainer: reduced over ranks, given to the optimizer, saved, loaded.

log sigma is no parameter of the model, so that no sampler and no saved policy ever holds it. What wraps
the model (DDP, FSDP) therefore does not see it either, and a plug-in does here what the wrapper does for
the weights.
"""

import math
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from alpkit.errors import TrackingError
from alpkit.policy.perturbation import LayerwisePerturbation


def sample_ids(rows: int, *, rank: int, ranks: int, micro_batch: int = 0) -> range:
    """Number the rows of one micro-batch: no two rows of an update share an id, on whatever rank.

    Every micro-batch of the update must have `rows` rows on every rank, or be the only one.
    """
    first = (micro_batch * rows) * ranks + rank
    return range(first, first + rows * ranks, ranks)


def add_to_optimizer(perturbation: LayerwisePerturbation, optimizer: torch.optim.Optimizer) -> None:
    """Give log sigma a group of its own, with its learning rate and decay; nothing when it is there."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    fresh = [p for p in perturbation.parameters() if id(p) not in known]
    if fresh:
        sigma = perturbation.config.sigma
        optimizer.add_param_group(
            {"params": fresh, "lr": sigma.lr, "weight_decay": sigma.weight_decay}
        )


def average_gradient(
    perturbation: LayerwisePerturbation, group: dist.ProcessGroup | None = None
) -> None:
    """Make log sigma's gradient the mean over ranks, as DDP and FSDP do with the weights' gradients.

    Every rank must call it, whether it has a gradient or not. A no-op in a single process.
    """
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return
    for parameter in perturbation.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad, group=group)
        parameter.grad /= dist.get_world_size(group)


def copy_from_first_rank(
    perturbation: LayerwisePerturbation, group: dist.ProcessGroup | None = None
) -> None:
    """Start every rank from one sigma, also where it was calibrated on each rank's own batch."""
    if dist.is_initialized() and dist.get_world_size(group) > 1 and len(perturbation.log_sigma):
        dist.broadcast(perturbation.log_sigma.data, group=group, group_src=0)


def gradient_norm(perturbation: LayerwisePerturbation) -> float:
    """L2 norm of log sigma's gradient; 0 where there is none."""
    norms = [p.grad.norm() for p in perturbation.parameters() if p.grad is not None]
    return math.hypot(*(float(norm) for norm in norms))


def save_log_sigma(perturbation: LayerwisePerturbation, path: Path) -> None:
    """Write log sigma beside a trainer's checkpoint."""
    save_file({"log_sigma": perturbation.log_sigma.detach().cpu().contiguous()}, path)


def load_log_sigma(perturbation: LayerwisePerturbation, path: Path) -> None:
    """Read log sigma back in place; `TrackingError` where it is missing or is of other layers."""
    if not path.is_file():
        raise TrackingError(
            "the checkpoint holds no log sigma",
            where=str(path),
            why="it was saved without this perturbation, and sigma would start again while the weights go on",
            fix="resume without the perturbation, or start a new run from the checkpoint's weights",
        )
    saved: Tensor = load_file(path)["log_sigma"]
    if saved.shape != perturbation.log_sigma.shape:
        raise TrackingError(
            f"the checkpoint has {len(saved)} sigmas, this perturbation {len(perturbation.log_sigma)}",
            where=str(path),
            fix="resume with the site and the layers that the checkpoint was made with",
        )
    with torch.no_grad():
        perturbation.log_sigma.copy_(saved)
