"""Kills of every kind: the same command again ends as if there had been none, to the bit."""

import shutil

import pytest
import yaml

from tests.support import kills

FAKE = "tests.support.fake_trainer:train_cell"
REAL = "tests.support.kills:train_cell"
SLOW = {"model": "fake/slow", "train": {"steps": 24}}
TINY = {
    "rollout": {"weights": "int4", "prompts": 8, "group": 4},
    "train": {"steps": 6, "updates_per_rollout": 4, "lr": 3.0e-5},
    "eval": {"every": 3, "items": 16, "k": 2},
    "records": {"every": 2},
    "checkpoint": {"every": 2, "keep": 2},
}


def prepared(place, empty_store, base, arms, seeds):
    place.mkdir()
    shutil.copy(empty_store, place / "mlflow.db")
    file = place / "grid.yaml"
    data = {"name": "killed", "base": base, "arms": arms, "seeds": seeds}
    file.write_text(yaml.safe_dump(data))
    return file, f"sqlite:///{place}/mlflow.db"


def test_after_three_kills_no_step_is_lost_or_doubled(tmp_path, empty_store):
    place, rng = tmp_path / "grid", kills.random_source(0)
    file, uri = prepared(place, empty_store, SLOW, ["grpo"], [0, 1])
    for kind in ("worker", "parent", "interrupt"):
        kills.kill_once(place, file, uri, FAKE, kind, rng, spread=0.4)
    kills.finish(place, file, uri, FAKE)
    told = kills.told(place, uri)
    assert len(told) == 2
    for steps, _, stored in told.values():
        assert steps == list(range(25))
        assert [row[2] for row in stored if row[1] == "reward/mean"] == [
            step / 64 for step in range(1, 25)
        ]


@pytest.mark.slow
def test_after_thirty_kills_the_grid_is_the_uninterrupted_one_to_the_bit(tmp_path, empty_store):
    whole, file_uri = tmp_path / "whole", None
    file, file_uri = prepared(whole, empty_store, TINY, ["grpo", "seq-alp"], [0, 1])
    kills.finish(whole, file, file_uri, REAL)
    expected = kills.told(whole, file_uri)
    rng, left = kills.random_source(1), 30
    kinds = [*kills.OUTSIDE, *kills.INSIDE] * 4
    rng.shuffle(kinds)
    for number in range(10):  # three kills and an end, ten times
        place = tmp_path / f"grid-{number}"
        file, uri = prepared(place, empty_store, TINY, ["grpo", "seq-alp"], [0, 1])
        for _ in range(3):
            left -= 1
            kills.kill_once(place, file, uri, REAL, kinds[left], rng, spread=4.0)
        kills.finish(place, file, uri, REAL)
        assert kills.told(place, uri) == expected, (number, kinds[left : left + 3])
