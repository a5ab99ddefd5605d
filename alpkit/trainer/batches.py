"""From a step's items to micro-batches: sampling, scoring, and cutting one rollout for its updates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.rollout import Request, Response, Rollout
from alpkit.seeds import derive
from alpkit.tasks import Item


@dataclass(frozen=True)
class Batch:
    """One step's responses with their rewards and advantages.

    `valid` marks the response tokens that count: sampled, with a finite sampler log-prob.
    """

    rollout: Rollout
    responses: tuple[Response, ...]
    valid: Bool[Tensor, "batch len"]
    reward: Float[Tensor, " batch"]
    advantage: Float[Tensor, " batch"]
    grading: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the grading itself: checks that were cut off or broke down."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a batch that go through one forward; `sample` are their row numbers in the step."""

    sample: Int[Tensor, " rows"]
    rollout: Rollout
    valid: Bool[Tensor, "rows len"]
    reward: Float[Tensor, " rows"]
    advantage: Float[Tensor, " rows"]


def requests_for(
    items: Sequence[Item], prompts: Sequence[tuple[int, ...]], *, group: int, seed: int, step: int
) -> list[Request]:
    """`group` requests per prompt, each with its own stream of draws, whatever the arm."""
    return [
        Request(prompts[index], derive(seed, "sampling", step, index, sample))
        for index in range(len(items))
        for sample in range(group)
    ]


def cut(batch: Batch, *, updates: int, micro_batch_tokens: int) -> list[list[MicroBatch]]:
    """Disjoint mini-batches of whole groups, one per update, each cut by its token budget."""
    rows = len(batch.rollout) // updates
    return [
        [
            _micro(batch, slice(start, stop))
            for start, stop in _spans(batch.rollout, update * rows, rows, micro_batch_tokens)
        ]
        for update in range(updates)
    ]


def _spans(rollout: Rollout, start: int, rows: int, budget: int) -> list[tuple[int, int]]:
    """Consecutive row spans whose padded size (rows x longest) stays within `budget` tokens."""
    lengths = rollout.attention[start : start + rows].sum(dim=1).tolist()
    spans: list[tuple[int, int]] = []
    first, longest = start, 0
    for row, length in enumerate(lengths, start):
        if row > first and max(longest, length) * (row - first + 1) > budget:
            spans.append((first, row))
            first, longest = row, 0
        longest = max(longest, length)
    return [*spans, (first, start + rows)]


def _micro(batch: Batch, index: slice) -> MicroBatch:
    rollout, columns = batch.rollout.rows(index)
    return MicroBatch(
        sample=torch.arange(index.start, index.stop),
        rollout=rollout,
        valid=batch.valid[index][:, columns],
        reward=batch.reward[index],
        advantage=batch.advantage[index],
    )
