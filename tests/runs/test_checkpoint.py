"""Checkpoints: the newest few, whole or not at all, and of the model that they are loaded into."""

import pytest
import torch
from torch import nn

from alpkit.errors import TrackingError
from alpkit.runs.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from alpkit.runs.folder import RunFolder, step_folder


def model(value=0.0, size=3):
    layer = nn.Linear(size, 1)
    nn.init.constant_(layer.weight, value)
    return layer


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept_and_come_back_bit_for_bit(tmp_path):
    folder = RunFolder(tmp_path).checkpoints
    assert latest_checkpoint(folder) is None
    for step in (9, 10, 11):
        save_checkpoint(folder, step, model(step / 3), {"tokens": step}, keep=2)
    assert names(folder) == ["step-000010", "step-000011"]
    loaded = model()
    state = load_checkpoint(latest_checkpoint(folder), loaded)
    assert state == {"step": 11, "tokens": 11}
    assert torch.equal(loaded.weight, model(11 / 3).weight)


def test_what_is_kept_for_replay_is_never_dropped(tmp_path):
    folder = RunFolder(tmp_path).replay
    for step in (1, 2, 3):
        save_checkpoint(folder, step, model(), {}, keep=None)
    assert len(names(folder)) == 3


def test_a_step_saved_again_replaces_the_first_and_what_a_kill_left_goes(tmp_path):
    (tmp_path / ".step-000007.partial").mkdir()
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path, 8, model(value), {}, keep=1)
    assert names(tmp_path) == ["step-000008"]
    loaded = model()
    load_checkpoint(step_folder(tmp_path, 8), loaded)
    assert loaded.weight[0, 0] == 2.0


def test_a_write_that_fails_keeps_the_checkpoint_before_it(tmp_path):
    save_checkpoint(tmp_path, 1, model(), {}, keep=1)
    with pytest.raises(AttributeError, match="pickle"):
        save_checkpoint(tmp_path, 2, model(), {"unwritable": lambda: None}, keep=1)
    assert names(tmp_path) == ["step-000001"]


def test_another_models_checkpoint_is_refused(tmp_path):
    save_checkpoint(tmp_path, 1, model(), {}, keep=1)
    with pytest.raises(TrackingError, match="does not fit the model: bias"):
        load_checkpoint(step_folder(tmp_path, 1), nn.Linear(3, 1, bias=False))
