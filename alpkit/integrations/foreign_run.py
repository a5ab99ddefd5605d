"""A run folder of ours that another trainer's numbers fill: config, manifest, metrics, token records.

    run = ForeignRun(Path("runs/my-trl/seed-0"), arm="trl")
    run.begin(config, done=0)
    run.write(1, rows, loss=0.1, record=True)
    run.end(1)

Not here: where the numbers come from (`alpkit.integrations.record`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml

from alpkit.config.objective import ObjectiveConfig
from alpkit.errors import TrackingError
from alpkit.runs import records
from alpkit.runs.folder import RunFolder
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
from alpkit.trainer.measure import engine_part, ratio_part, read_out

_PER_TOKEN: Final = ("token", "weight", "logp_rollout", "logp_old", "logp_train", "entropy")
_PER_RESPONSE: Final = ("update", "sample", "prompt", "advantage", "reward", "policy_version")
_log = logging.getLogger(__name__)

Row = dict[str, Any]
"""One response: update, prompt_ids, response_ids, response_mask, advantage, reward, policy_version, and one
array per name of `_PER_TOKEN` over the tokens that the model sampled."""


class ForeignRun:
    """Writes `folder` (runs/<grid>/<cell>) and its cell's place in the grid's manifest.

    `note` is said in the log and kept in the manifest, where reports show it.
    """

    def __init__(self, folder: Path, *, arm: str, note: str = "") -> None:
        self.folder, self._arm, self._note = folder, arm, note

    def begin(self, config: Mapping[str, Any], *, done: int) -> None:
        """Start after step `done`; `TrackingError` at 0 where the folder holds another run's steps."""
        self._config = config
        self._objective = ObjectiveConfig.model_validate(config["objective"])
        self._tracker = CellTracker(self.folder)
        if not done and read_steps(self.folder):
            raise TrackingError(
                "the folder holds another run",
                where=str(self.folder),
                why="two runs' steps in one file would be read as one",
                fix="record into a new folder runs/<grid>/<cell>, or resume the run from its checkpoint",
            )
        write_text(RunFolder(self.folder).config, yaml.safe_dump(dict(config), sort_keys=False))
        records.rewind(self.folder, done or None)
        self._tracker.rewind(done or None)
        last = dict(read_steps(self.folder)).get(done, {})
        self._tokens, self._samples = (
            int(last.get(f"progress/{name}") or 0) for name in ("tokens", "samples")
        )
        self._cell = CellRecord(
            self.folder.name,
            self._arm,
            int(config["seed"]),
            self.folder.parent.name,
            state="running",
            steps_done=done,
            started=now(),
        )
        self._write_states()

    def write(self, step: int, rows: Sequence[Row], *, loss: float, record: bool) -> None:
        """Log one step's metrics and, with `record`, its tokens; `rows` in the order of the updates."""
        for sample, row in enumerate(rows):
            # 31 bits of the prompt's own tokens: the same number in a resumed run and in another seed's.
            prompt = derive("prompt", *row["prompt_ids"]) >> 32
            row |= {"prompt": prompt, "sample": sample}
        columns = _columns(rows)
        self._tokens, self._samples = (
            self._tokens + len(columns["token"]),
            self._samples + len(rows),
        )
        self._tracker.log(step, {"train/loss": loss, **self._metrics(columns, rows)})
        if record:
            RecordWriter(RunFolder(self.folder).records).write(step, columns, self._sequences(rows))
        self._cell = replace(self._cell, steps_done=step)
        write_cell(self.folder, self._cell)

    def end(self, step: int) -> None:
        """Say that the run finished after `step`."""
        self._cell = replace(self._cell, state="finished", steps_done=step, ended=now())
        self._write_states()

    def _metrics(self, columns: dict[str, np.ndarray], rows: Sequence[Row]) -> dict[str, float]:
        table = TokenTable({name: torch.from_numpy(values) for name, values in columns.items()})
        reward = np.array([row["reward"] for row in rows])
        length = np.array([len(row["token"]) for row in rows], dtype=float)
        return {
            "reward/mean": float(reward.mean()),
            "reward/std": float(reward.std()),
            "response/length_mean": float(length.mean()),
            "response/length_max": float(length.max()),
            "progress/tokens": float(self._tokens),
            "progress/samples": float(self._samples),
            **read_out([ratio_part(table, self._objective), engine_part(table)]),
        }

    def _sequences(self, rows: Sequence[Row]) -> dict[str, Any]:
        names = (
            *("sample", "prompt", "prompt_ids", "response_ids", "response_mask"),
            *("reward", "advantage"),
        )
        longest = int(self._config["rollout"]["max_tokens"])
        cut = [len(row["response_ids"]) >= longest for row in rows]
        found: dict[str, Any] = {name: [row[name] for row in rows] for name in names}
        return found | {"finish": ["length" if full else "stop" for full in cut]}

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


def _columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """The rows' tokens, one after the other, as columns of the token records."""
    lengths = [len(row["token"]) for row in rows]
    columns = {name: np.repeat([row[name] for row in rows], lengths) for name in _PER_RESPONSE}
    columns |= {name: np.concatenate([row[name] for row in rows]) for name in _PER_TOKEN}
    columns["position"] = np.concatenate([np.arange(length) for length in lengths])
    columns["turn"] = np.zeros_like(columns["position"])
    columns["keep"] = columns["weight"] > 0
    return columns
