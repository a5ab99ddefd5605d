"""Hold a step's rollout as batch, micro-batches and flat tokens, and cut it into updates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.objective import Inputs
from alpkit.rollout import Request, Response, Rollout
from alpkit.seeds import derive
from alpkit.tasks import Item


@dataclass(frozen=True)
class Batch:
    """One step's responses with their rewards and advantages.

    `valid` marks the response tokens that count: sampled, with a finite sampler log-prob.
    """

    step: int
    rollout: Rollout
    responses: tuple[Response, ...]
    valid: Bool[Tensor, "batch len"]
    reward: Float[Tensor, " batch"]
    advantage: Float[Tensor, " batch"]
    grading: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the grading itself: checks that were cut off or broke down."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a batch that go through one forward; `sample` are their row numbers in the step.

    `update` is the mini-batch that they belong to; `logp_old` is there where something needs it.
    """

    step: int
    update: int
    sample: Int[Tensor, " rows"]
    rollout: Rollout
    valid: Bool[Tensor, "rows len"]
    reward: Float[Tensor, " rows"]
    advantage: Float[Tensor, " rows"]
    logp_old: Float[Tensor, "rows len"] | None = None

    def inputs(self, logp: Float[Tensor, "rows len"]) -> Inputs:
        """Give the loss's inputs of these rows, with `logp` as the ratio's numerator."""
        return Inputs(
            logp=logp,
            logp_old=self.logp_old,
            logp_rollout=self.rollout.logp_rollout,
            mask=self.valid,
            advantage=self.advantage.to(logp.device),
        )


@dataclass(frozen=True)
class TokenTable:
    """A step's valid tokens, flat, in the order of the updates; on the device, log-probs in nats.

    A column that was not computed for this step is absent.
    """

    columns: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.columns["token"])

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]

    def log_ratio(self, over: str, under: str) -> Tensor | None:
        """Compute `over` - `under` in float64 nats; None where either was not computed."""
        if over not in self.columns or under not in self.columns:
            return None
        return self[over].double() - self[under].double()

    def host(self) -> dict[str, np.ndarray]:
        """Copy every column to a numpy array, for steps that are recorded or stand out."""
        return {name: values.cpu().numpy() for name, values in self.columns.items()}


def requests_for(
    items: Sequence[Item], prompts: Sequence[tuple[int, ...]], *, group: int, seed: int, step: int
) -> list[Request]:
    """Make `group` requests per prompt, each with its own stream of draws, the same for every arm."""
    return [
        Request(prompts[index], derive(seed, "sampling", step, index, sample))
        for index in range(len(items))
        for sample in range(group)
    ]


def cut(batch: Batch, *, updates: int, micro_batch_tokens: int) -> list[list[MicroBatch]]:
    """Cut a batch into disjoint mini-batches of whole groups, one per update, and these by the token budget."""
    rows = len(batch.rollout) // updates
    return [
        [
            _micro(batch, update, slice(start, stop))
            for start, stop in _spans(batch.rollout, update * rows, rows, micro_batch_tokens)
        ]
        for update in range(updates)
    ]


def token_rows(micro: MicroBatch, per_token: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flatten one micro-batch's valid tokens to columns, `per_token` among them; still on the device."""
    valid = micro.valid
    index = valid.flatten().nonzero()[:, 0]  # the one wait for the device
    tokens, rows = len(index), valid.sum(dim=1)
    position = micro.rollout.response.long().cumsum(dim=1) - 1
    device = valid.device

    def repeat(values: Tensor) -> Tensor:
        return values.to(device).repeat_interleave(rows, output_size=tokens)

    def pick(values: Tensor) -> Tensor:
        return values.detach().flatten()[index]

    return {
        "update": torch.full((tokens,), micro.update, device=device),
        "sample": repeat(micro.sample),
        "prompt": repeat(micro.rollout.prompt),
        "position": pick(position),
        "turn": torch.zeros_like(index),
        "token": pick(micro.rollout.tokens),
        "logp_rollout": pick(micro.rollout.logp_rollout),
        "advantage": repeat(micro.advantage),
        "reward": repeat(micro.reward),
        "policy_version": torch.full((tokens,), micro.rollout.policy_version, device=device),
        **{name: pick(values) for name, values in per_token.items()},
    }


def gather(parts: Sequence[Mapping[str, Tensor]]) -> TokenTable:
    """Join the updates' tokens to one table."""
    return TokenTable({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _spans(rollout: Rollout, start: int, rows: int, budget: int) -> list[tuple[int, int]]:
    """Split rows into consecutive spans whose padded size (rows x longest) stays within `budget` tokens."""
    lengths = rollout.attention[start : start + rows].sum(dim=1).tolist()
    spans: list[tuple[int, int]] = []
    first, longest = start, 0
    for row, length in enumerate(lengths, start):
        if row > first and max(longest, length) * (row - first + 1) > budget:
            spans.append((first, row))
            first, longest = row, 0
        longest = max(longest, length)
    return [*spans, (first, start + rows)]


def _micro(batch: Batch, update: int, index: slice) -> MicroBatch:
    rollout, columns = batch.rollout.rows(index)
    return MicroBatch(
        step=batch.step,
        update=update,
        sample=torch.arange(index.start, index.stop),
        rollout=rollout,
        valid=batch.valid[index][:, columns],
        reward=batch.reward[index],
        advantage=batch.advantage[index],
    )
