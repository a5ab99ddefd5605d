"""Hold a step's rollout as batch, micro-batches and flat tokens, and cut it into updates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.objective import Inputs
from alpkit.rollout import Response, Rollout
from alpkit.trainer.packing import pack, pack_padded


@dataclass(frozen=True)
class Batch:
    """One step's responses with their rewards and advantages.

    `valid` marks the response tokens that count: sampled, with a finite sampler log-prob, of a response that is
    trained on. `advantage` is one per response, or one per token where every turn has its own.
    """

    step: int
    rollout: Rollout
    responses: tuple[Response, ...]
    valid: Bool[Tensor, "batch len"]
    reward: Float[Tensor, " batch"]
    advantage: Float[Tensor, " batch"] | Float[Tensor, "batch len"]
    grading: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the grading itself: checks that were cut off or broke down."""
    drawn: Float[Tensor, " batch"] | None = None
    """Rewards of the first draw, where some of it was replaced: what reward/* measures."""
    receipt: Mapping[str, float] = field(default_factory=dict)
    """Metrics of what was left out, replaced or scored anew between sampling and the loss."""
    turns: Mapping[str, float] = field(default_factory=dict)
    """Metrics of conversations: turns, what came between them, tool calls; empty without an environment."""

    @property
    def nonfinite(self) -> Bool[Tensor, "batch len"]:
        """Sampled tokens whose sampler log-prob is NaN or infinite."""
        return self.rollout.response & ~self.rollout.logp_rollout.isfinite()

    @property
    def response_advantage(self) -> Float[Tensor, " batch"]:
        """One advantage per response: where every turn has its own, that of the first turn."""
        if self.advantage.ndim == 1:
            return self.advantage
        first = self.rollout.response.long().argmax(dim=1, keepdim=True)
        return self.advantage.gather(1, first.to(self.advantage.device))[:, 0]


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a batch that go through one forward; `sample` are their row numbers in the step.

    `update` is the mini-batch that they belong to; `logp_old` is there where something needs it, and
    `entropy_old` of the same forward.
    """

    step: int
    update: int
    sample: Int[Tensor, " rows"]
    rollout: Rollout
    valid: Bool[Tensor, "rows len"]
    reward: Float[Tensor, " rows"]
    advantage: Float[Tensor, " rows"] | Float[Tensor, "rows len"]
    logp_old: Float[Tensor, "rows len"] | None = None
    entropy_old: Float[Tensor, "rows len"] | None = None

    def inputs(self, logp: Float[Tensor, "rows len"]) -> Inputs:
        """Give the loss's inputs of these rows, with `logp` as the ratio's numerator."""
        return Inputs(
            logp=logp,
            logp_old=self.logp_old,
            logp_rollout=self.rollout.logp_rollout,
            mask=self.valid,
            advantage=self.advantage.to(logp.device),
            turn=self.rollout.turn,
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


def cut(
    batch: Batch, *, updates: int, tokens: int, aim: int | None = None, padded: bool = False
) -> list[list[MicroBatch]]:
    """Cut a batch into disjoint mini-batches of whole groups, and these into forwards of at most `tokens`.

    Responses without a valid token take part in none, but for the shortest of a mini-batch that has no other.
    `aim`: fewer tokens than that, where no row alone has more (`alpkit.policy.memory.forward_tokens`).
    `padded`: padding counts as well, for models that cannot pack.
    """
    rows = len(batch.rollout) // updates
    mini_batches = [range(first, first + rows) for first in range(0, rows * updates, rows)]
    trained = [_trained(batch, rows) for rows in mini_batches]
    return cut_rows(batch, trained, tokens=tokens, aim=aim, padded=padded)


def cut_rows(
    batch: Batch,
    mini_batches: Sequence[Sequence[int]],
    *,
    tokens: int,
    aim: int | None = None,
    padded: bool = False,
) -> list[list[MicroBatch]]:
    """Cut the given rows of each mini-batch into forwards of at most `tokens`, as `cut` does."""
    rollout = batch.rollout
    # Up to its first response token a row is prompt, whatever of its rest was sampled.
    sampled = rollout.response.long().cumsum(dim=1) > 0
    prompts = (rollout.attention & ~sampled).sum(dim=1).tolist()
    responses = (rollout.attention & sampled).sum(dim=1).tolist()
    choose = pack_padded if padded else pack
    return [
        [
            _micro(batch, update, torch.tensor([rows[i] for i in chosen]))
            for chosen in choose(
                [prompts[row] for row in rows], [responses[row] for row in rows], tokens, aim
            )
        ]
        for update, rows in enumerate(mini_batches)
    ]


def _trained(batch: Batch, rows: Sequence[int]) -> list[int]:
    """Rows with a valid token; where there are none, the shortest, for its forward."""
    some = batch.valid.any(dim=1).tolist()
    lengths = batch.rollout.attention.sum(dim=1).tolist()
    return [row for row in rows if some[row]] or [min(rows, key=lambda row: lengths[row])]


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
        "turn": pick(micro.rollout.turn),
        "token": pick(micro.rollout.tokens),
        "logp_rollout": pick(micro.rollout.logp_rollout),
        "advantage": (pick if micro.advantage.ndim == 2 else repeat)(micro.advantage),
        "reward": repeat(micro.reward),
        "policy_version": torch.full((tokens,), micro.rollout.policy_version, device=device),
        **{name: pick(values) for name, values in per_token.items()},
    }


def likeliest_rows(batch: Batch) -> dict[str, list[object]]:
    """List the sampler's likeliest tokens of every response token, as columns of the records."""
    rows = [
        (sample, position, *token)
        for sample, response in enumerate(batch.responses)
        if response.top is not None
        for position, token in enumerate(zip(response.top.ids, response.top.logp, strict=True))
    ]
    names = ("sample", "position", "ids", "logp_rollout")
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def gather(parts: Sequence[Mapping[str, Tensor]]) -> TokenTable:
    """The updates' tokens as one table, by update and sample, however they were cut."""
    table = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    # Samples count up over the updates. Within one, tokens are in order already.
    order = table["sample"].argsort(stable=True)
    return TokenTable({name: values[order] for name, values in table.items()})


def _micro(batch: Batch, update: int, rows: Tensor) -> MicroBatch:
    rollout, columns = batch.rollout.rows(rows)
    advantage = batch.advantage[rows]
    return MicroBatch(
        step=batch.step,
        update=update,
        sample=rows,
        rollout=rollout,
        valid=batch.valid[rows.to(batch.valid.device)][:, columns],
        reward=batch.reward[rows],
        advantage=advantage if advantage.ndim == 1 else advantage[:, columns],
    )
