"""What plan says of memory: need against device, the keys that help, and nothing where the model is unknown."""

import pytest

from alpkit.cli.fitting import lines
from alpkit.config import Cell, RunConfig
from alpkit.launch import fitting
from alpkit.launch.fitting import Device, fits, present_device, rows

GIB = 2**30
LARGE = {"model": "builtin:smollm2-135m", "rollout": {"max_tokens": 256}}


def cells(*configs):
    made = [RunConfig.model_validate(config) for config in configs]
    return [Cell(f"{i:010x}", f"arm{i}", 0, {}, config) for i, config in enumerate(made)]


@pytest.fixture
def machine(monkeypatch):
    """Have a device of so many GiB, with so many cells on it."""

    def give(gib, *, together=1, gpu=False):
        device = Device("a device", int(gib * GIB), gpu, together)
        monkeypatch.setattr(fitting, "present_device", lambda jobs, count: device)
        return device

    return give


def test_arms_of_equal_need_stand_together_and_fit_or_not(machine):
    machine(100)
    found = fits(cells(LARGE, LARGE, {**LARGE, "rollout": {"max_tokens": 512}}), 1)
    assert [fit.arms for fit in found] == [("arm0", "arm1"), ("arm2",)]
    assert all(fit.holds and not fit.changes for fit in found)
    assert found[0].total == found[0].needs.total
    machine(100, together=3)
    assert fits(cells(LARGE), 3)[0].total == 3 * found[0].needs.total


def test_a_device_that_is_too_small_gets_the_keys_that_make_it_fit(machine):
    machine(100)
    need = fits(cells(LARGE), 1)[0].needs
    standing = sum(need.standing.values())
    small_enough = 1.1 * (standing + need.phases["an update"])
    machine(small_enough / GIB)
    (fit,) = fits(cells(LARGE), 1)
    assert not fit.holds
    assert fit.can_hold
    keys = {change.key: change.value for change in fit.changes}
    assert {"hardware.eval_batch", "hardware.rollout_batch"} <= set(keys)
    changed = {key.removeprefix("hardware."): int(value) for key, value in keys.items()}
    again = fits(cells({**LARGE, "hardware": changed}), 1)[0]
    assert again.needs.total == fit.changes[-1].left
    assert again.holds
    (text,) = lines([fit])
    assert text.startswith("warning: memory of arm0")
    assert "To change, in this order: hardware." in text


def test_what_stands_alone_and_does_not_fit_needs_another_device(machine):
    machine(1)
    (fit,) = fits(cells(LARGE), 1)
    assert not fit.can_hold
    assert fit.changes[-1][:2] == ("train.optimizer", "adamw_8bit")
    assert "which is not enough; use a larger device" in next(lines([fit]))
    machine(4, together=4)
    assert "lower launch.jobs" in next(lines(fits(cells(LARGE), 4)))


def test_on_a_gpu_the_budget_and_checkpointed_layers_help(machine):
    machine(3.4, gpu=True)
    small = {"rollout_batch": 8, "eval_batch": 8, "micro_batch_tokens": 8192}
    (fit,) = fits(cells({**LARGE, "hardware": small}), 1)
    assert [change.key for change in fit.changes][:1] == ["hardware.micro_batch_tokens"]
    machine(2.8, gpu=True)
    (fit,) = fits(cells({**LARGE, "hardware": small}), 1)
    assert "hardware.checkpoint_layers" in {change.key for change in fit.changes}


def test_a_model_that_is_not_here_is_said_to_be_unknown(machine):
    machine(1)
    (fit,) = fits(cells({"model": "nobody/was-never-downloaded"}), 1)
    assert fit.needs is None
    assert "not known" in next(lines([fit]))
    assert rows([fit])[0]["bytes"] is None


def test_cells_share_a_machine_and_spread_over_gpus(monkeypatch):
    monkeypatch.setattr(fitting, "visible_gpus", list)
    monkeypatch.setattr(fitting, "machine_bytes", lambda: 5 * GIB)
    assert present_device(3, 8) == Device("this machine", 5 * GIB, False, 3)
    assert present_device(8, 2).cells == 2  # no more than there are
    monkeypatch.setattr(fitting, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.setattr(fitting, "_gpu", lambda: ("card", 24 * GIB))
    assert present_device("auto", 8) == Device("card", 24 * GIB, True, 1)
    assert present_device(3, 8).cells == 2
