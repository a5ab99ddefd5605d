"""The cost of a cell, foretold from one step, against the cell itself."""

import time

import pytest
import torch

from alpkit.config import RunConfig
from alpkit.runs.steps import CellTracker
from alpkit.trainer import train_cell
from alpkit.trainer.cost_probe import _due, probe_cost
from tests.support.replay_runs import SMALL, merged


def test_a_cells_disk_is_foretold_and_its_time_is_of_the_right_size(tmp_path):
    """Times on a shared machine are worth a factor, bytes are counted: lines of metrics differ a little."""
    torch.set_num_threads(1)
    changes = {
        "train": {"steps": 6},
        "records": {"every": 2, "replay": True},
        "checkpoint": {"every": 2, "keep": 2},
        "eval": {"every": 3, "items": 8, "k": 1},
    }
    config = RunConfig.model_validate(merged(SMALL, changes))
    cost = probe_cost(config)
    start = time.perf_counter()
    train_cell(config, tmp_path, CellTracker(tmp_path))
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert cost.disk == pytest.approx(size, rel=0.05)
    assert seconds / 5 < cost.seconds < 5 * seconds
    assert 0 < cost.step_seconds < cost.seconds


def test_what_is_due_every_so_often_is_due_at_the_end_too():
    assert [_due(steps, 3) for steps in (1, 3, 4, 6, 7)] == [1, 1, 2, 2, 3]
