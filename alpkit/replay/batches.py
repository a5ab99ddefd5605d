"""Rebuild a recorded step as the trainer had it: padded, and cut into the same mini- and micro-batches.

Uses the trainer's own `cut`, so that what depends on the cut is what it was. Not here: what is done
with the batches (`losses`, `gradients`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from alpkit.config import RunConfig
from alpkit.config.objective import AdvantageConfig
from alpkit.errors import TrackingError
from alpkit.objective import Inputs, group_advantage
from alpkit.rollout import Request, Response, collate
from alpkit.runs import records
from alpkit.runs.folder import RunFolder
from alpkit.runs.records import read_sequences
from alpkit.trainer.batches import Batch, MicroBatch, cut

LOGPS: Final = ("logp_old", "logp_train", "logp_perturbed")
IDENTITY: Final = ("step", "update", "sample", "prompt", "position", "token")
_COLUMNS: Final = (*IDENTITY, "turn", "logp_rollout", *LOGPS, "reward", "advantage")


@dataclass(frozen=True)
class RecordedStep:
    """One recorded step.

    `plan`: micro-batches by update; `logps`: the recorded log-probs by name, [batch, len], only those
    that this step computed; `tokens`: its token records, by sample and position.
    """

    step: int
    config: RunConfig
    batch: Batch
    plan: list[list[MicroBatch]]
    logps: dict[str, Tensor]
    turn: Tensor
    tokens: pd.DataFrame

    def inputs(self, micro: MicroBatch, logp: Tensor, advantage: Tensor) -> Inputs:
        """Give the loss's inputs of a micro-batch, with `logp` [batch, len] as numerator."""
        rows, columns = self.place(micro)
        old = self.logps.get("logp_old")
        return Inputs(
            logp=logp[rows, columns],
            logp_old=None if old is None else old[rows, columns],
            logp_rollout=micro.rollout.logp_rollout,
            mask=micro.valid,
            advantage=advantage[rows] if advantage.ndim == 1 else advantage[rows, columns],
            turn=self.turn[rows, columns],
        )

    def place(self, micro: MicroBatch) -> tuple[Tensor, slice]:
        """Which rows and columns of the whole batch a micro-batch is."""
        return micro.sample, self.batch.rollout.rows(micro.sample)[1]

    @cached_property
    def order(self) -> np.ndarray:
        """Where every recorded token stands among the plan's valid tokens."""
        micros = [micro for micros in self.plan for micro in micros]
        of = [micro.sample.repeat_interleave(micro.valid.sum(dim=1)) for micro in micros]
        order: np.ndarray = torch.cat(of).argsort(stable=True).numpy()
        return order

    def advantage(self, config: AdvantageConfig) -> Tensor:
        """Give the recorded advantages, or compute others from the recorded rewards (`obstacle` where it cannot)."""
        if config == self.config.objective.advantage:
            return self.batch.advantage
        return group_advantage(self.batch.reward, self.batch.rollout.prompt, config)

    def cut(self, updates: int) -> list[list[MicroBatch]]:
        """The batch cut for so many updates, within the run's micro-batch budget.

        Runs from before it was a hard bound may hold longer sequences: these go alone.
        """
        longest = int(self.batch.rollout.attention.sum(dim=1).max())
        budget = max(self.config.hardware.micro_batch_tokens, longest)
        return cut(self.batch, updates=updates, tokens=budget)


def read_step(folder: Path, step: int, config: RunConfig) -> RecordedStep:
    """Rebuild a step from `folder`'s records; `TrackingError` where they do not fit `config`."""
    tokens = records.read(folder, steps=[step], columns=_COLUMNS)
    tokens = tokens.sort_values(["sample", "position"], kind="stable", ignore_index=True)
    sequences = read_sequences(folder, steps=[step]).sort_values("sample", ignore_index=True)
    where = f"{RunFolder(folder).records}, step {step}"
    if not np.array_equal(sequences["sample"], np.arange(_samples(config))):
        raise _misfit(where, f"{len(sequences)} responses, the config has {_samples(config)}")
    batch, at = _padded(step, tokens, sequences)
    if config.environment is not None and config.environment.credit == "turn":
        own = _spread(tokens["advantage"], at, batch.valid, 0.0)
        batch = replace(batch, advantage=own)
    logps = {
        name: _spread(tokens[name], at, batch.valid, np.nan)
        for name in LOGPS
        if tokens[name].notna().any()
    }
    turn = _spread(tokens["turn"], at, batch.valid, 0).long()
    recorded = RecordedStep(step, config, batch, [], logps, turn, tokens)
    recorded = replace(recorded, plan=recorded.cut(config.train.updates_per_rollout))
    planned = np.empty(len(batch.rollout), dtype=np.int64)
    for update, micros in enumerate(recorded.plan):
        planned[torch.cat([micro.sample for micro in micros]).numpy()] = update
    if not np.array_equal(tokens["update"], planned[tokens["sample"]]):
        raise _misfit(where, "tokens stand in other updates than train.updates_per_rollout makes")
    return recorded


def _padded(
    step: int, tokens: pd.DataFrame, sequences: pd.DataFrame
) -> tuple[Batch, tuple[Tensor, Tensor]]:
    """Pad the step to a batch, and locate every recorded token in it by row and column."""
    responses = [
        Response(tuple(ids), (0.0,) * len(ids), "stop") for ids in sequences["response_ids"]
    ]
    rollout = collate(
        [Request(tuple(ids), 0) for ids in sequences["prompt_ids"]],
        responses,
        prompt=sequences["prompt"].tolist(),
        pad_id=0,  # masked everywhere: any id does
        policy_version=0,
    )
    sampled = _without_unsampled(rollout.response, sequences["response_mask"])
    places = sampled.nonzero()
    first = torch.searchsorted(places[:, 0].contiguous(), torch.arange(len(sampled)))
    row = torch.from_numpy(tokens["sample"].to_numpy(np.int64))
    column = places[first[row] + torch.from_numpy(tokens["position"].to_numpy(np.int64)), 1]
    valid = torch.zeros_like(sampled)
    valid[row, column] = True
    logp = _spread(tokens["logp_rollout"], (row, column), valid, 0.0)
    batch = Batch(
        step=step,
        rollout=replace(rollout, response=sampled, logp_rollout=logp),
        responses=tuple(responses),
        valid=valid,
        reward=torch.tensor(sequences["reward"].to_numpy(np.float32)),
        advantage=torch.tensor(sequences["advantage"].to_numpy(np.float32)),
    )
    return batch, (row, column)


def _without_unsampled(response: Tensor, masks: pd.Series) -> Tensor:
    """Mark the response positions that the model sampled: all of them where a row has no mask."""
    sampled = response.clone()
    for row, mask in enumerate(masks):
        if mask is not None:
            sampled[row, response[row]] = torch.tensor(np.asarray(mask, dtype=bool))
    return sampled


def _spread(
    values: "pd.Series[float]", at: Sequence[Tensor], like: Tensor, elsewhere: float
) -> Tensor:
    """Put one value per recorded token at its row and column, float32."""
    dense = torch.full(like.shape, elsewhere, dtype=torch.float32)
    dense[at[0], at[1]] = torch.tensor(values.to_numpy(np.float32))
    return dense


def _samples(config: RunConfig) -> int:
    return config.rollout.prompts * config.rollout.group


def _misfit(where: str, why: str) -> TrackingError:
    return TrackingError(
        "the records do not fit the run's config",
        where=where,
        why=why,
        fix="replay a folder that one run wrote: config.yaml and records of the same cell",
    )
