"""A notice to stop: the step ends, its checkpoint is saved, and the run goes on as if nothing had happened."""

import pytest

from alpkit.config import RunConfig
from alpkit.runs import notice
from alpkit.runs.folder import RunFolder, step_folders
from alpkit.runs.steps import CellTracker, read_steps
from alpkit.trainer import train_cell

CONFIG = RunConfig.model_validate(
    {
        "rollout": {"prompts": 8, "group": 2},
        "train": {"steps": 3, "updates_per_rollout": 2},
        "eval": {"every": 3, "items": 8, "k": 1},
        "checkpoint": {"every": 100},
    }
)


@pytest.fixture(autouse=True)
def _no_notice_is_left():
    yield
    notice.take_back()


def numbers(folder):
    kept = ("time/", "memory/", "perf/")
    return [
        (s.step, {k: v for k, v in s.metrics.items() if not k.startswith(kept)})
        for s in read_steps(folder)
    ]


def test_a_notice_saves_a_checkpoint_after_the_step_and_the_run_goes_on_to_the_bit(tmp_path):
    train_cell(CONFIG, tmp_path / "whole", CellTracker(tmp_path / "whole"))
    folder = tmp_path / "stopped"
    tracker = CellTracker(
        folder, on_step=lambda step, _: notice.ask_to_stop() if step == 1 else None
    )
    with pytest.raises(notice.Stopped, match="stopped after step 1"):
        train_cell(CONFIG, folder, tracker)
    assert list(step_folders(RunFolder(folder).checkpoints)) == [1]
    notice.take_back()
    train_cell(CONFIG, folder, CellTracker(folder))
    assert numbers(folder) == numbers(tmp_path / "whole")
