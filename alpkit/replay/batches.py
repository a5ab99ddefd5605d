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
from alpkit.runs.imported import Imported
from alpkit.runs.records import read_sequences
from alpkit.trainer.batches import Batch, MicroBatch, cut, cut_rows

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
    imported: Imported | None = None

    @cached_property
    def has_advantage(self) -> bool:
        """Whether every token's advantage is known; always, but for imported runs."""
        return bool(self.tokens["advantage"].notna().all())

    @property
    def knows_length(self) -> bool:
        """Whether the longest response allowed is known, which some losses divide by."""
        return self.imported is None or "max_tokens" not in self.imported.absent

    def inputs(self, micro: MicroBatch, logp: Tensor, advantage: Tensor) -> Inputs:
        """Give the loss's inputs of a micro-batch, with `logp` [batch, len] as numerator.

        `advantage`: as `advantage()` gives it, [batch] or [batch, len].
        """
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
        """Give the rows and columns of the whole batch that a micro-batch is."""
        return micro.sample, self.batch.rollout.rows(micro.sample)[1]

    @cached_property
    def order(self) -> np.ndarray:
        """Place of every recorded token among the plan's valid tokens."""
        micros = [micro for micros in self.plan for micro in micros]
        of = [micro.sample.repeat_interleave(micro.valid.sum(dim=1)) for micro in micros]
        order: np.ndarray = torch.cat(of).argsort(stable=True).numpy()
        return order

    def advantage(self, config: AdvantageConfig) -> Tensor:
        """Give the recorded advantages, or compute others from the recorded rewards (`obstacle` where it cannot).

        Of an imported run the recorded ones are given for every method, as nobody knows what made them:
        [batch, len], and 0 where there are none.
        """
        if self.imported is not None:
            return self._per_token("advantage").nan_to_num()
        if config == self.config.objective.advantage:
            return self.batch.advantage
        return group_advantage(self.batch.reward, self.batch.rollout.prompt, config)

    def cut(self, updates: int) -> list[list[MicroBatch]]:
        """Cut the batch for so many updates, within the run's micro-batch budget."""
        return cut(self.batch, updates=updates, tokens=self._budget)

    def cut_as_recorded(self) -> list[list[MicroBatch]]:
        """Cut the batch for the updates that its tokens say; for runs whose sizes no configuration holds."""
        first = self.tokens.drop_duplicates("sample")
        updates = [rows["sample"].tolist() for _, rows in first.groupby("update")]
        return cut_rows(self.batch, updates, tokens=self._budget)

    def one_prompt_each(self) -> list[MicroBatch]:
        """Cut the first update by prompt: these are what is drawn independently."""
        if self.imported is None:
            prompts = self.config.rollout.prompts
            first = prompts // self.config.train.updates_per_rollout
            return [micro for micros in self.cut(prompts)[:first] for micro in micros]
        rows = torch.cat([micro.sample for micro in self.plan[0]])
        numbers = self.batch.rollout.prompt[rows]
        groups = [rows[numbers == number].tolist() for number in numbers.unique()]
        micros = cut_rows(self.batch, groups, tokens=self._budget)
        return [replace(micro, update=0) for group in micros for micro in group]

    @property
    def _budget(self) -> int:
        """The run's own; runs from before it was a hard bound may hold longer sequences: these go alone."""
        longest = int(self.batch.rollout.attention.sum(dim=1).max())
        return max(self.config.hardware.micro_batch_tokens, longest)

    def _per_token(self, column: str) -> Tensor:
        """Put a recorded column at its tokens' places, NaN elsewhere: [batch, len]."""
        dense = torch.full(self.batch.valid.shape, torch.nan)
        dense[self.batch.valid] = torch.tensor(self.tokens[column].to_numpy(np.float32))
        return dense


def read_step(
    folder: Path, step: int, config: RunConfig, imported: Imported | None = None
) -> RecordedStep:
    """Rebuild a step from `folder`'s records; `TrackingError` where they do not fit `config`.

    `imported`: the run comes from a dump, whose steps may differ in size.
    """
    tokens = records.read(folder, steps=[step], columns=_COLUMNS)
    tokens = tokens.sort_values(["sample", "position"], kind="stable", ignore_index=True)
    sequences = read_sequences(folder, steps=[step]).sort_values("sample", ignore_index=True)
    where = f"{RunFolder(folder).records}, step {step}"
    samples = len(sequences) if imported is not None else _samples(config)
    if not np.array_equal(sequences["sample"], np.arange(samples)):
        raise _misfit(where, f"{len(sequences)} responses, the config has {_samples(config)}")
    batch, at = _padded(step, tokens, sequences)
    if config.environment is not None and config.environment.credit == "turn":
        own = _spread(tokens["advantage"], at, batch.valid, 0.0)
        batch = replace(batch, advantage=own)
    logps = {
        name: _spread(tokens[name], at, batch.valid, np.nan)
        for name in LOGPS
        if tokens[name].notna().any() and tokens["logp_rollout"].notna().any()
    }
    turn = _spread(tokens["turn"], at, batch.valid, 0).long()
    recorded = RecordedStep(step, config, batch, [], logps, turn, tokens, imported)
    if imported is not None:
        return replace(recorded, plan=recorded.cut_as_recorded())
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
