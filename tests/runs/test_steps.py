"""metrics.jsonl: a line per step, what a kill leaves, and who is told of damage."""

import json
import math

import pytest

from alpkit.errors import TrackingError
from alpkit.runs.steps import (
    CellTracker,
    Step,
    proved_steps,
    read_steps,
    scan_steps,
    write_steps,
)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_jsonl_has_one_line_per_step_and_null_for_what_is_not_finite(tmp_path):
    seen = []
    tracker = CellTracker(tmp_path, on_step=lambda step, values: seen.append((step, dict(values))))
    tracker.log(0, {"eval/greedy": 0.5})
    tracker.log(1, {"reward/mean": 0.25, "kl/k3": math.nan, "kl/k2": math.inf})
    assert lines(tmp_path) == [
        {"step": 0, "eval/greedy": 0.5},
        {"step": 1, "reward/mean": 0.25, "kl/k3": None, "kl/k2": None},
    ]
    assert seen == [(0, {"eval/greedy": 0.5}), (1, {"reward/mean": 0.25})]


def test_an_unknown_key_or_a_step_out_of_order_is_refused_and_leaves_no_line(tmp_path):
    tracker = CellTracker(tmp_path)
    tracker.log(1, {"reward/mean": 0.0})
    with pytest.raises(TrackingError, match="reward/meen"):
        tracker.log(2, {"reward/meen": 0.0})
    with pytest.raises(TrackingError, match="step 1 was logged after step 1"):
        tracker.log(1, {"reward/mean": 0.0})
    assert lines(tmp_path) == [{"step": 1, "reward/mean": 0.0}]


def test_rewind_drops_later_steps_and_half_a_line(tmp_path):
    tracker = CellTracker(tmp_path)
    for step in range(4):
        tracker.log(step, {"reward/mean": step / 10})
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 4, "rewa')
    resumed = CellTracker(tmp_path)
    resumed.rewind(2)
    resumed.log(3, {"reward/mean": 9.0})
    assert [(s["step"], s["reward/mean"]) for s in lines(tmp_path)] == [
        (0, 0.0),
        (1, 0.1),
        (2, 0.2),
        (3, 9.0),
    ]
    resumed.rewind(None)
    assert lines(tmp_path) == []


def test_damage_in_the_middle_of_the_file_is_an_error_with_its_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(TrackingError) as caught:
        read_steps(tmp_path)
    assert caught.value.where.endswith("metrics.jsonl:2")
    assert caught.value.why == "not a whole line of JSON"


def test_every_damaged_line_is_named_and_the_rest_is_read(tmp_path):
    text = '{"step": 0}\n{"st\n\n[1]\n{"kl/k3": 1}\n{"step": 2, "kl/k3": null}\n{"step": 3, "k'
    (tmp_path / "metrics.jsonl").write_bytes(text.encode() + b"\xce")
    steps, faults = scan_steps(tmp_path)
    assert steps == [Step(0, {}), Step(2, {"kl/k3": None})]
    assert [fault.place_in(tmp_path) for fault in faults] == [
        *(f"metrics.jsonl:{number}" for number in (2, 4, 5, 7)),
    ]
    assert [fault.cut_short for fault in faults] == [False, False, False, True]


def test_half_a_line_at_the_end_is_no_damage(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1, "kl')
    assert read_steps(tmp_path) == [Step(0, {})]
    assert read_steps(tmp_path / "nowhere") == []


def test_steps_come_back_as_they_were_written(tmp_path):
    steps = [Step(0, {"eval/greedy": 0.5}), Step(2, {"kl/k3": None, "reward/mean": 1e-300})]
    write_steps(tmp_path, steps)
    assert read_steps(tmp_path) == steps


@pytest.mark.parametrize(
    ("text", "step", "gap"),
    [
        (None, -1, "metrics.jsonl is missing"),
        ("", -1, "metrics.jsonl ends at step -1"),
        ('{"step": 0}\n{"step": 1}\n{"step": 2, "kl', 1, "metrics.jsonl ends at step 1"),
        ('{"step": 0}\n{"step": 2}\n', 0, "metrics.jsonl lacks step 1"),
        ('{"step": 0}\n{"step": 0}\n', 0, "metrics.jsonl lacks step 1"),
        ('{"step": 0}\n{"st\n{"step": 1}\n', 0, "line 2 of metrics.jsonl is damaged"),
        ('{"step": 1}\n', -1, "metrics.jsonl lacks step 0"),
    ],
)
def test_steps_are_proved_as_far_as_their_lines_follow_one_another(tmp_path, text, step, gap):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    assert proved_steps(tmp_path) == (step, gap)
