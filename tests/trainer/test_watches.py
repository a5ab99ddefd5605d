"""What a run says of its noise and of rewards that stay away: when, once, and across a resume."""

import logging

import pytest

from alpkit.config import PRESETS, RunConfig
from alpkit.runs.steps import CellTracker
from alpkit.trainer import train_cell
from alpkit.trainer.noise_watch import NoiseWatch
from alpkit.trainer.reward_watch import RewardWatch


def step(sigma=(0.02, 0.02), *, moved=0.2, raw=0.5, staleness=0.1):
    metrics = {f"sigma/layer_{i:02d}": value for i, value in enumerate(sigma)}
    metrics |= {"sigma/mean": sum(sigma) / 2, "sigma/max": max(sigma), "noise/to_rms": 0.02}
    metrics |= {f"noise/to_rms/layer_{i:02d}": 0.01 * (i + 1) for i in range(2)}
    metrics |= {"ratio/raw/token/std": raw, "ratio/staleness/token/std": staleness}
    return metrics | ({} if moved is None else {"ratio/perturbation/token/std": moved})


@pytest.fixture
def said(caplog):
    """What has been logged since the last call: (level, text)."""
    caplog.set_level(logging.INFO, logger="alpkit.trainer")

    def new():
        lines = [(r.levelname, r.getMessage()) for r in caplog.records]
        caplog.clear()
        return lines

    return new


def test_the_first_step_is_described_and_a_good_size_is_no_caution(said):
    NoiseWatch("rollout").look(1, step())
    ((level, text),) = said()
    assert level == "INFO"
    assert text.startswith("step 1: noise over the state's rms: layer 00 0.01, layer 01 0.02; ")
    assert "0.2 nats a token, 40% of the ratio's 0.5" in text


def test_it_speaks_again_when_one_layer_has_changed_by_two(said):
    watch = NoiseWatch("rollout")
    watch.look(1, step())
    said()
    for sigma in ((0.0399, 0.0101), (0.02, 0.02)):
        watch.look(2, step(sigma))
        assert said() == []
    watch.look(3, step((0.02, 0.01), moved=0.02))
    (_, (level, text)) = said()
    assert (level, text.startswith("step 3: nearly its control")) == ("WARNING", True)
    watch.look(4, step((0.02, 0.01), moved=0.02))  # told already
    assert said() == []
    watch.look(5, step((0.04, 0.01), moved=1.2))
    (_, (level, text)) = said()
    assert (level, text.startswith("step 5: another policy")) == ("WARNING", True)


def test_a_step_without_diagnostics_is_waited_out(said):
    watch = NoiseWatch("rollout")
    watch.look(1, step(moved=None))
    assert (said(), watch.state) == ([], {})
    watch.look(2, step())
    assert len(said()) == 1


def test_a_resumed_watch_does_not_repeat_itself(said):
    first, second = NoiseWatch("rollout"), NoiseWatch("rollout")
    first.look(1, step())
    said()
    second.restore(first.state)
    second.look(2, step((0.03, 0.03)))
    assert said() == []
    second.look(3, step((0.04, 0.03)))
    assert len(said()) == 1


@pytest.mark.parametrize(("denominator", "cautions"), [("rollout", 1), ("old", 0), ("current", 0)])
def test_noise_is_measured_by_the_ratio_that_the_loss_clips(said, denominator, cautions):
    """0.02 of 0.5 is lost; 0.02 of 0.1 is not, and over `current` the noise is the whole ratio."""
    NoiseWatch(denominator).look(1, step(moved=0.02))
    assert [level for level, _ in said()].count("WARNING") == cautions


def test_a_sigma_scheduled_to_nothing_and_back(said):
    watch = NoiseWatch("rollout")
    for number, sigma in enumerate([(0.0, 0.0), (0.0, 0.0), (0.01, 0.01)]):
        watch.look(number, step(sigma))
    assert len(said()) == 2


def test_five_steps_without_a_reward_are_said_once_a_streak():
    watch = RewardWatch()
    shares = [1.0, 0.96, 0.95, *[0.97] * 7, 0.5, *[1.0] * 5]
    told = [bool(watch.look({"reward/solved_none": share})) for share in shares]
    assert [i for i, spoke in enumerate(told) if spoke] == [7, 15]


SMALL = {
    "rollout": {"weights": "int4", "prompts": 4, "group": 2},
    "train": {"updates_per_rollout": 2, "lr": 0},
    "eval": {"every": 50, "items": 8, "k": 1},
    "records": {"every": 50},
    "checkpoint": {"every": 1},
}


def train(folder, steps, preset="grpo", **changes):
    config = SMALL | PRESETS[preset].settings | changes
    train_cell(
        RunConfig.model_validate(config | {"train": SMALL["train"] | {"steps": steps}}),
        folder,
        CellTracker(folder),
    )


def warned(lines):
    return [text for level, text in lines if level == "WARNING"]


def test_a_run_that_earns_nothing_says_so_also_when_it_was_resumed(tmp_path, said):
    """Nine digits are beyond the tiny adder; three steps, then four more from the checkpoint."""
    task = {"name": "addition", "digits": 9}
    train(tmp_path, 3, task=task)
    assert warned(said()) == []
    train(tmp_path, 7, task=task)
    (text,) = warned(said())
    assert text.startswith(
        "step 5: no response to 100% of the prompts earned a reward, for 5 steps"
    )


@pytest.mark.parametrize(
    ("init", "told"), [(1e-5, "step 1: nearly its control"), (0.03, "step 1: another policy")]
)
def test_a_run_says_at_step_1_that_its_noise_is_wrong(tmp_path, said, init, told):
    train(tmp_path, 1, "seq-alp", perturbation={"sigma": {"init": init, "learnable": False}})
    (text,) = warned(said())
    assert text.startswith(told)
    train(tmp_path, 2, "seq-alp", perturbation={"sigma": {"init": init, "learnable": False}})
    assert warned(said()) == []  # resumed: nothing new
