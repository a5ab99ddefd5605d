"""What a resumed cell believes, and how a policy that diverges ends."""

import json
import logging
import math

import pytest
import torch

from alpkit.errors import NumericalError
from alpkit.runs.folder import RunFolder, step_folders
from alpkit.runs.steps import CellTracker, read_steps
from alpkit.trainer import train_cell
from tests.trainer.test_train_cell import config, metrics_of, without_times

STEPS = 3
CONFIG = config(train={"steps": STEPS}, checkpoint={"every": 1, "keep": 3})


def train(folder, run_config=CONFIG):
    torch.set_num_threads(1)
    train_cell(run_config, folder, CellTracker(folder))
    return without_times(metrics_of(folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


def copied(whole, tmp_path):
    import shutil

    folder = tmp_path / "cell"
    shutil.copytree(whole[0], folder)
    return folder


def weights(folder):
    newest = step_folders(RunFolder(folder).checkpoints)[STEPS]
    return (newest / "model.safetensors").read_bytes()


def remove_metrics(folder):
    (folder / "metrics.jsonl").unlink()
    return "metrics.jsonl is missing"


def lose_the_last_lines(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2]))
    return "metrics.jsonl ends at step 1"


def lose_a_line(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2] + lines[3:]))
    return "metrics.jsonl lacks step 2"


def damage_the_newest(folder):
    path = step_folders(RunFolder(folder).checkpoints)[STEPS] / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])
    return str(path)


@pytest.mark.parametrize(
    "damage", [remove_metrics, lose_the_last_lines, lose_a_line, damage_the_newest]
)
def test_a_cell_goes_back_to_what_is_proved_and_ends_as_if_nothing_had_happened(
    whole, tmp_path, caplog, damage
):
    folder = copied(whole, tmp_path)
    said = damage(folder)
    with caplog.at_level(logging.WARNING):
        assert train(folder) == whole[1]
    assert said in caplog.text
    assert [step for step, _ in read_steps(folder)] == list(range(STEPS + 1))
    assert weights(folder) == weights(whole[0])


@pytest.mark.parametrize("updates", [1, 4])
def test_divergence_is_told_with_step_loss_and_gradient_norm_and_not_as_a_stale_sampler(
    tmp_path, updates
):
    wild = config(train={"steps": 2, "lr": 1e30, "updates_per_rollout": updates})
    with pytest.raises(NumericalError, match="training has diverged") as caught:
        train_cell(wild, tmp_path, CellTracker(tmp_path))
    assert caught.value.where == "step 1"
    assert "train/loss" in caught.value.why
    assert "train/grad_norm" in caught.value.why
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert {"train/loss", "train/grad_norm"} <= lines[1].keys()
    assert math.isfinite(lines[1]["train/grad_norm"])
    # Nobody goes on from it.
    assert step_folders(RunFolder(tmp_path).checkpoints) == {}
