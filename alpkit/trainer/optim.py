"""The optimizer, and its learning rates over the run.

Two groups: the policy and, where it is learned, log sigma, each with its own rate. The rates of an update
follow from its place in the run alone, so that a checkpoint keeps nothing of the schedule.
"""

import importlib.util
import logging
import math
from collections.abc import Sequence
from typing import Any, assert_never

import torch
from torch import nn

from alpkit.config.run import TrainConfig
from alpkit.errors import PrerequisiteError
from alpkit.policy.perturbation import LayerwisePerturbation

Groups = list[dict[str, object]]


def build_optimizer(
    train: TrainConfig, model: nn.Module, perturbation: LayerwisePerturbation | None
) -> torch.optim.Optimizer:
    """Make the optimizer of the policy's parameters and of what the perturbation learns."""
    groups = [_group(list(model.parameters()), train.lr, train.weight_decay)]
    if perturbation is not None and perturbation.parameters():
        sigma = perturbation.config.sigma
        groups.append(_group(perturbation.parameters(), sigma.lr, sigma.weight_decay))
    match train.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, betas=train.betas)
        case "adamw_8bit":
            return _eight_bit(groups, train.betas)
        case _:
            assert_never(train.optimizer)


def schedule(train: TrainConfig, update: int) -> float:
    """Give the factor on the learning rates of the run's n-th update, counted from 0.

    The warm-up of w updates goes 1/w, 2/w, ... 1; over the n that follow, linear goes 1, 1 - 1/n, ... 1/n,
    and cosine (1 + cos(pi i / n)) / 2: no update is wasted on a rate of 0.
    """
    warmup = train.warmup * train.updates_per_rollout
    if update < warmup:
        return (update + 1) / warmup
    done = (update - warmup) / (train.steps * train.updates_per_rollout - warmup)
    match train.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - done
        case "cosine":
            return (1.0 + math.cos(math.pi * done)) / 2
        case _:
            assert_never(train.schedule)


class LearningRates:
    """Sets the optimizer's rates before each update, and tells what they were."""

    def __init__(self, train: TrainConfig, optimizer: torch.optim.Optimizer) -> None:
        self._train = train
        self._full = [float(group["lr"]) for group in optimizer.param_groups]
        self._factors: list[float] = []

    def set(self, optimizer: torch.optim.Optimizer, *, step: int, update: int) -> None:
        """Give every group its rate for an update (from 0) of a step (from 1)."""
        factor = schedule(self._train, (step - 1) * self._train.updates_per_rollout + update)
        for group, full in zip(optimizer.param_groups, self._full, strict=True):
            group["lr"] = full * factor
        self._factors.append(factor)

    def metrics(self) -> dict[str, float]:
        """Return train/lr and, where the rates change, receipt/lr_scale, of the updates since the last call."""
        factors, self._factors = self._factors, []
        metrics = {"train/lr": self._train.lr * factors[-1]}
        if self._train.schedule != "constant" or self._train.warmup:
            metrics["receipt/lr_scale"] = sum(factors) / len(factors)
        return metrics


def _group(parameters: Sequence[nn.Parameter], lr: float, weight_decay: float) -> dict[str, object]:
    return {"params": list(parameters), "lr": lr, "weight_decay": weight_decay}


def _eight_bit(groups: Groups, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """Make bitsandbytes' AdamW; the policy's moments in blocks of a byte a number, log sigma's in float32."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise PrerequisiteError(
            "the 8-bit optimizer needs a package that is not installed here",
            where="train.optimizer",
            why="bitsandbytes cannot be imported",
            fix="pip install 'alpkit[8bit]', or set train.optimizer: adamw",
        )
    # At its import it speaks of kernels for 4-bit products, which no optimizer needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from bitsandbytes.optim import AdamW8bit

    class AdamW(AdamW8bit):  # type: ignore[misc]  # untyped
        """Keeps the moments of every group after the first in float32."""

        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            config: dict[str, Any] = super().get_config(gindex, pindex, group)
            return config if gindex == 0 else config | {"optim_bits": 32}

    optimizer: torch.optim.Optimizer = AdamW(groups, betas=betas)
    return optimizer
