"""evaluations.jsonl: what was counted comes back, a resume takes it back, and damage is named."""

import pytest

from alpkit.errors import TrackingError
from alpkit.runs.evaluations import (
    Counts,
    append_evaluations,
    read_evaluations,
    rewind_evaluations,
    scan_evaluations,
)
from alpkit.runs.folder import RunFolder


def test_counts_come_back_and_are_taken_back_on_resume(tmp_path):
    lines = [Counts(step, "easy", 4, [0, 4], [0.0, 1.0], [0.0, 1.0], ["a", "b"]) for step in (0, 5)]
    for line in lines:
        append_evaluations(tmp_path, [line])
    assert read_evaluations(tmp_path) == lines
    with RunFolder(tmp_path).evaluations.open("a") as handle:
        handle.write('{"step": 10, "se')
    assert read_evaluations(tmp_path) == lines
    rewind_evaluations(tmp_path, 4)
    assert read_evaluations(tmp_path) == lines[:1]
    rewind_evaluations(tmp_path, None)
    assert read_evaluations(tmp_path) == []


def test_damage_is_named_and_for_the_strict_an_error(tmp_path):
    line = Counts(0, "easy", 4, [0, 4], [0.0, 1.0], [0.0, 1.0], ["a", "b"])
    append_evaluations(tmp_path, [line])
    with RunFolder(tmp_path).evaluations.open("a") as handle:
        handle.write('{"step": 5, "set": "easy"}\n')
    append_evaluations(tmp_path, [line])
    rows, faults = scan_evaluations(tmp_path)
    assert rows == [line, line]
    assert [fault.place_in(tmp_path) for fault in faults] == ["evaluations.jsonl:2"]
    with pytest.raises(TrackingError, match="evaluation cannot be read"):
        read_evaluations(tmp_path)
    rewind_evaluations(tmp_path, 0)  # a run resumes all the same: it does not need them
    assert read_evaluations(tmp_path) == [line, line]
