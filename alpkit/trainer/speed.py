"""Measure a step's speed: tokens a second, and the share of what the device can multiply at all.

Operations are counted from the model's shape (`alpkit.policy.shapes`): two forward and four backward for a
weight and a token in the layers' matrices, the LM head on response tokens only, attention for the pairs of
tokens that see each other. What is computed again (the head's logits, checkpointed layers) and what has no
backward pass counts for nothing, so that the share is one of useful work.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from transformers import PreTrainedModel

from alpkit.policy.shapes import Shape, shape_of
from alpkit.trainer.batches import MicroBatch
from alpkit.trainer.clock import Clock

_SIDE_CPU: Final = 768
_SIDE_GPU: Final = 8192
_TRIALS: Final = 5
_PATIENCE: Final = 0.3
"""Seconds after which no further trial begins."""


@dataclass(frozen=True)
class Work:
    """Sizes of what a step trains on: real tokens, pairs that attend, tokens that the LM head predicts."""

    tokens: int
    pairs: int
    predictions: int

    @classmethod
    def of(cls, micros: Iterable[MicroBatch]) -> "Work":
        """Count what went through the model, in one transfer from its device."""
        counts = []
        for micro in micros:
            length = micro.rollout.attention.sum(dim=1)
            pairs = (length * (length + 1)).sum() // 2
            counts.append(torch.stack([length.sum(), pairs, micro.rollout.response.sum()]))
        return cls(*(int(count) for count in torch.stack(counts).sum(dim=0).tolist()))

    def flops(self, shape: Shape) -> int:
        """Operations of one forward and backward over all of it."""
        forward = self.tokens * shape.flops_per_token() + self.pairs * shape.flops_per_pair()
        return 3 * (forward + self.predictions * shape.flops_per_prediction())


@dataclass(frozen=True)
class Speed:
    """Facts that turn a step's seconds into perf/*; `limit` is in operations a second."""

    shape: Shape | None
    limit: float
    draws: int = 1
    """Forwards and backwards of every token, one per draw of the noise."""

    def metrics(self, work: Work, clock: Clock) -> dict[str, float]:
        """Return perf/* of the step so far; no perf/mfu where the model's shape is not known."""
        found = {"perf/tokens_per_second": work.tokens / clock.elapsed()}
        seconds = clock.seconds.get("update", 0.0)
        if self.shape is not None and seconds > 0:
            found["perf/mfu"] = self.draws * work.flops(self.shape) / seconds / self.limit
        return found


def speed_of(model: PreTrainedModel, dtype: torch.dtype, *, draws: int) -> Speed:
    """Measure what the model's device multiplies in `dtype`, and read the model's shape."""
    device = next(model.parameters()).device
    limit = matmul_limit(device, dtype, torch.get_num_threads())
    return Speed(shape_of(model.config.to_dict()), limit, draws)


@cache
def matmul_limit(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Operations a second of a large matrix product, the best of a few; asked once a process.

    `threads` is that of this process: another number of them is another limit.
    """
    side = _SIDE_GPU if device.type == "cuda" else _SIDE_CPU
    left = torch.ones(side, side, dtype=dtype, device=device)
    out, best = left @ left, float("inf")
    begin = _now(device)
    for _ in range(_TRIALS):
        start = _now(device)
        torch.mm(left, left, out=out)
        now = _now(device)
        best = min(best, now - start)
        if now - begin > _PATIENCE:  # half precision without instructions for it
            break
    return 2 * side**3 / best


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
