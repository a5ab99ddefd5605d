"""Checkpoints: the newest few, whole or not at all, and of the model that they are loaded into."""

import shutil

import pytest
import torch
from torch import nn

from alpkit.errors import TrackingError
from alpkit.runs.checkpoint import (
    DamagedCheckpoint,
    latest_checkpoint,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
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


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a flipped bit of the weights": lambda p: flip(p / "model.safetensors"),
    "a flipped bit of the state": lambda p: flip(p / "state.pt"),
    "half of the weights": lambda p: (p / "model.safetensors").write_bytes(b"\x08" + bytes(40)),
    "an empty state": lambda p: (p / "state.pt").write_bytes(b""),
    "no weights": lambda p: (p / "model.safetensors").unlink(),
    "digests of no JSON": lambda p: (p / "digests.json").write_text("{"),
    "no digests and no state": lambda p: [(p / f).unlink() for f in ("digests.json", "state.pt")],
    "no digests and a cut state": lambda p: [
        (p / "digests.json").unlink(),
        (p / "state.pt").write_bytes((p / "state.pt").read_bytes()[:-30]),
    ],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, caplog, damage):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, model(step / 3), {}, keep=2)
    DAMAGE[damage](step_folder(tmp_path, 2))
    loaded = model(7.0)
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        load_checkpoint(step_folder(tmp_path, 2), loaded)
    assert loaded.weight[0, 0] == 7.0
    assert load_newest(tmp_path, loaded, proved=2, gap="")["step"] == 1
    assert torch.equal(loaded.weight, model(1 / 3).weight)
    assert str(step_folder(tmp_path, 2)) in caplog.text
    # Out of the way of the next one, which must not count it among those it keeps.
    assert names(tmp_path) == [".step-000002.set-aside", "step-000001"]


def test_a_checkpoint_of_steps_without_metrics_is_not_gone_on_from(tmp_path, caplog):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, model(step), {}, keep=3)
    state = load_newest(tmp_path, model(), proved=1, gap="metrics.jsonl lacks step 2")
    assert state["step"] == 1
    assert "metrics.jsonl lacks step 2" in caplog.text
    assert load_newest(tmp_path, model(), proved=-1, gap="metrics.jsonl is missing") is None
    assert not [name for name in names(tmp_path) if name.startswith("step-")]


def test_a_checkpoint_of_an_older_version_is_taken_without_digests(tmp_path):
    save_checkpoint(tmp_path, 4, model(0.5), {}, keep=1)
    (step_folder(tmp_path, 4) / "digests.json").unlink()
    assert load_newest(tmp_path, model(), proved=9, gap="")["step"] == 4
    shutil.rmtree(step_folder(tmp_path, 4))
    assert load_newest(tmp_path, model(), proved=9, gap="") is None
