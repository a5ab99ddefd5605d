"""A run folder of ours that another trainer's numbers fill: config, manifest, metrics, token records.

    run = ForeignRun(Path("runs/my-trl/seed-0"), arm="trl")
    run.begin(config, done=0)
    run.write(1, responses, loss=0.1, record=True)
    run.end(1)

What the other trainer does not say is left out of metrics and records. Not here: where the numbers come
from (`alpkit.integrations.record` while it runs, `alpkit.integrations.importing` from its dumps).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypedDict

import numpy as np
import torch
import yaml

from alpkit.config.objective import ObjectiveConfig
from alpkit.errors import TrackingError
from alpkit.runs import records
from alpkit.runs.folder import RunFolder
from alpkit.runs.imported import Imported, write_imported
from alpkit.runs.records import RecordWriter
from alpkit.runs.states import (
    CellRecord,
    Manifest,
    ManifestCell,
    now,
    read_grid,
    write_cell,
    write_grid,
)
from alpkit.runs.steps import CellTracker, read_steps
from alpkit.runs.swap import write_text
from alpkit.seeds import derive
from alpkit.trainer.batches import TokenTable
from alpkit.trainer.measure import advantage_part, engine_part, ratio_part, read_out

LOGPS: Final = ("logp_rollout", "logp_old", "logp_train")
PER_TOKEN: Final = ("token", *LOGPS, "entropy", "weight", "keep", "advantage", "turn")
"""Columns that a response may have a value of for each token that the model sampled."""
_log = logging.getLogger(__name__)


class ForeignConfig(TypedDict, total=False):
    """Fields of a `RunConfig` that are known of another trainer's run; no default stands for the others."""

    model: str
    seed: int
    rollout: dict[str, object]
    train: dict[str, object]
    records: dict[str, object]
    objective: dict[str, object]
    hardware: dict[str, object]


@dataclass(frozen=True)
class ForeignResponse:
    """One response as another trainer had it; None, and a column that is not there: it did not say.

    `prompt` names the prompt where its ids do not. `tokens` has columns of `PER_TOKEN`, one value for each
    token that the model sampled; none where the trainer kept no tokens.
    """

    update: int
    prompt: str | None
    prompt_ids: tuple[int, ...] | None
    response_ids: tuple[int, ...]
    response_mask: tuple[int, ...]
    tokens: Mapping[str, np.ndarray]
    reward: float | None
    policy_version: int | None = None

    def __len__(self) -> int:
        return len(self.tokens.get("token", ()))

    @property
    def advantage(self) -> float | None:
        """The advantage of all its tokens; None where they differ or nobody said."""
        values = self.tokens.get("advantage")
        if values is None or not len(values) or (values != values[0]).any():
            return None
        return float(values[0])

    @property
    def prompt_number(self) -> int:
        """A number of the prompt's own, the same in a resumed run and in another seed's; 0: not known."""
        # 31 bits, as the records have room for.
        if self.prompt_ids is not None:
            return derive("prompt", *self.prompt_ids) >> 32
        return 0 if self.prompt is None else derive("prompt", self.prompt) >> 32


class ForeignRun:
    """Writes `folder` (runs/<grid>/<cell>) and its cell's place in the grid's manifest.

    `note` is said in the log and kept in the manifest, where reports show it. `imported`: the run comes
    from dumps, which may lack things.
    """

    def __init__(
        self, folder: Path, *, arm: str, note: str = "", imported: Imported | None = None
    ) -> None:
        self.folder, self._arm, self._note, self._imported = folder, arm, note, imported

    def begin(self, config: ForeignConfig, *, done: int) -> None:
        """Open the folder and go on after step `done`.

        `TrackingError` where `done` is 0 and the folder holds another run's steps.
        """
        self._objective = (
            ObjectiveConfig.model_validate(config["objective"]) if "objective" in config else None
        )
        longest = config.get("rollout", {}).get("max_tokens")
        self._longest = longest if isinstance(longest, int) else None
        refuse_another_run(self.folder, done)
        self._tracker = CellTracker(self.folder)
        write_text(RunFolder(self.folder).config, yaml.safe_dump(dict(config), sort_keys=False))
        if self._imported is not None:
            write_imported(self.folder, self._imported)
        records.rewind(self.folder, done or None)
        self._tracker.rewind(done or None)
        last = dict(read_steps(self.folder)).get(done, {})
        self._tokens, self._samples = (
            int(last.get(f"progress/{name}") or 0) for name in ("tokens", "samples")
        )
        self._cell = CellRecord(
            self.folder.name,
            self._arm,
            config.get("seed", 0),
            self.folder.parent.name,
            state="running",
            steps_done=done,
            started=now(),
        )
        self._write_states()

    def write(
        self, step: int, responses: Sequence[ForeignResponse], *, loss: float | None, record: bool
    ) -> None:
        """Log one step's metrics and, with `record`, its tokens; `responses` in the order of the updates."""
        columns = _columns(responses)
        self._tokens += len(columns.get("token", ()))
        self._samples += len(responses)
        metrics = {} if loss is None else {"train/loss": loss}
        self._tracker.log(step, metrics | self._metrics(columns, responses))
        if record and columns:
            sequences = self._sequences(responses)
            RecordWriter(RunFolder(self.folder).records).write(step, columns, sequences)
        self._cell = replace(self._cell, steps_done=step)
        write_cell(self.folder, self._cell)

    def end(self, step: int) -> None:
        """Say that the run finished after `step`."""
        self._cell = replace(self._cell, state="finished", steps_done=step, ended=now())
        self._write_states()

    def _metrics(
        self, columns: Mapping[str, np.ndarray], responses: Sequence[ForeignResponse]
    ) -> dict[str, float]:
        metrics = {"progress/samples": float(self._samples)}
        rewards = [r.reward for r in responses if r.reward is not None]
        if rewards and len(rewards) == len(responses):
            metrics["reward/mean"] = float(np.mean(rewards))
            metrics["reward/std"] = float(np.std(rewards))
        if not columns:
            return metrics
        length = np.array([len(response) for response in responses], dtype=float)
        table = TokenTable({name: torch.from_numpy(values) for name, values in columns.items()})
        return {
            **metrics,
            "response/length_mean": float(length.mean()),
            "response/length_max": float(length.max()),
            "progress/tokens": float(self._tokens),
            **read_out(
                [ratio_part(table, self._objective), engine_part(table), advantage_part(table)]
            ),
        }

    def _sequences(self, responses: Sequence[ForeignResponse]) -> dict[str, list[object]]:
        def finish(response: ForeignResponse) -> str:
            if self._longest is None:
                return "unknown"
            return "length" if len(response.response_ids) >= self._longest else "stop"

        return {
            "sample": list(range(len(responses))),
            "prompt": [r.prompt_number for r in responses],
            "prompt_ids": [r.prompt_ids or () for r in responses],
            "response_ids": [r.response_ids for r in responses],
            "response_mask": [r.response_mask for r in responses],
            "reward": [r.reward for r in responses],
            "advantage": [r.advantage for r in responses],
            "finish": [finish(r) for r in responses],
        }

    def _write_states(self) -> None:
        """Write the cell's state and the grid's manifest, beside the cells that it has already."""
        write_cell(self.folder, self._cell)
        grid, own = RunFolder(self.folder).grid, self._cell
        if grid.manifest.is_file():
            known = read_grid(grid.path)
            manifest, others = known.manifest, [c for c in known.cells if c.cell_id != own.cell_id]
        else:
            manifest, others = Manifest(grid=own.grid, cells=(), created=now()), []
        if self._note and self._note not in manifest.notes:
            manifest = replace(manifest, notes=(*manifest.notes, self._note))
            _log.warning("%s", self._note)
        kept = [cell for cell in manifest.cells if cell.cell_id != own.cell_id]
        listed = (*kept, ManifestCell(own.cell_id, own.arm, own.seed))
        write_grid(grid.path, replace(manifest, cells=listed, launched=now()), [*others, own])


def refuse_another_run(folder: Path, done: int) -> None:
    """Raise `TrackingError` where a run that starts anew finds the steps of another one."""
    if not done and read_steps(folder):
        raise TrackingError(
            "the folder holds another run",
            where=str(folder),
            why="two runs' steps in one file would be read as one",
            fix="write into a new folder runs/<grid>/<cell>, or resume the run from its checkpoint",
        )


def _columns(responses: Sequence[ForeignResponse]) -> dict[str, np.ndarray]:
    """The responses' tokens, one after the other, as columns of the token records; none without tokens.

    A column that some response lacks is left out.
    """
    lengths = [len(response) for response in responses]
    if not sum(lengths):
        return {}
    columns = {
        "update": np.repeat([r.update for r in responses], lengths),
        "sample": np.repeat(np.arange(len(responses)), lengths),
        "prompt": np.repeat([r.prompt_number for r in responses], lengths),
        "position": np.concatenate([np.arange(length) for length in lengths]),
    }
    for name in PER_TOKEN:
        if all(name in r.tokens for r in responses if len(r)):
            columns[name] = np.concatenate([r.tokens[name] for r in responses if len(r)])
    columns.setdefault("turn", np.zeros_like(columns["position"]))
    if "keep" not in columns and "weight" in columns:
        columns["keep"] = columns["weight"] > 0
    rewards = [np.nan if r.reward is None else r.reward for r in responses]
    if not np.isnan(rewards).all():
        columns["reward"] = np.repeat(rewards, lengths)
    versions = [r.policy_version for r in responses if r.policy_version is not None]
    if len(versions) == len(responses):
        columns["policy_version"] = np.repeat(versions, lengths)
    return columns
