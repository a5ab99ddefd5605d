"""Estimate a cell's time and disk from one step of it, for `alpkit plan --probe`.

cost = probe_cost(config)          # trains one step in a temporary folder, which is removed
cost.seconds, cost.disk
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from alpkit.config import RunConfig
from alpkit.runs.folder import RunFolder
from alpkit.runs.steps import CellTracker
from alpkit.trainer import train_cell


class Cost(NamedTuple):
    """Cost of one whole cell, and the parts that it was made of; seconds and bytes."""

    step_seconds: float
    """One step, without evaluation and checkpoint."""
    eval_seconds: float
    """One evaluation of all sets."""
    seconds: float
    """The whole cell: start, steps, evaluations, checkpoints."""
    disk: int
    """The cell's folder at its end; MLflow's store is not counted."""


class _Watch:
    """When the lines of a run came, and what they said."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.at: dict[int, float] = {}
        self.metrics: dict[int, dict[str, float]] = {}

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        self.at[step] = time.perf_counter()
        self.metrics[step] = dict(metrics)


def probe_cost(config: RunConfig) -> Cost:
    """Train one step, which is recorded, evaluated and saved, and count how often the cell does each."""
    train = config.train.model_copy(update={"steps": 1})
    watch = _Watch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = config.model_copy(update={"train": train})
        train_cell(one, folder, CellTracker(folder, on_step=watch))
        end = time.perf_counter()
        sizes = _sizes(RunFolder(folder))
    step = watch.metrics[1]
    evaluation = step.get("time/eval", 0.0)
    once = step["time/step"] - evaluation
    start = watch.at[1] - watch.begin - step["time/step"]
    save = end - watch.at[1]
    steps = config.train.steps
    evaluations = _due(steps, _eval_every(config))
    records = len({1, steps} | set(range(config.records.every, steps + 1, config.records.every)))
    checkpoints = _due(steps, config.checkpoint.every)
    seconds = start + steps * once + evaluations * evaluation + checkpoints * save
    disk = (
        sizes["lines"] * (steps + 1)
        + records * (sizes["records"] + sizes["replay"])
        + min(checkpoints, config.checkpoint.keep) * sizes["checkpoint"]
    )
    return Cost(once, evaluation, seconds, int(disk))


def _sizes(folder: RunFolder) -> dict[str, float]:
    """Bytes of a line of metrics, a step's records, replay weights and a checkpoint."""
    return {
        "lines": folder.metrics.stat().st_size / 2,
        "records": _bytes(folder.records),
        "replay": _bytes(folder.replay),
        "checkpoint": _bytes(folder.checkpoints),
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _eval_every(config: RunConfig) -> int:
    """Steps between evaluations; of several sets, those of the one that is due most often."""
    return min(
        (entry.every or config.eval.every for entry in config.evals), default=config.eval.every
    )


def _due(steps: int, every: int) -> int:
    """Count how often something happens that is due every so many steps and after the last."""
    return steps // every + (steps % every > 0)
