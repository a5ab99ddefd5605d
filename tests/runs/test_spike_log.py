"""spikes.jsonl: every spike once, whole texts, and a run of another version."""

import pytest

from alpkit.errors import TrackingError
from alpkit.metrics import WATCHED
from alpkit.runs.folder import RunFolder
from alpkit.runs.spike_log import (
    append_spikes,
    read_spikes,
    rewind_spikes,
    scan_spikes,
    spike_table,
    spike_tags,
)


def test_a_rewind_forgets_later_spikes_and_half_a_line(tmp_path):
    before = [{"step": step, "metric": "kl/k3"} for step in (3, 17, 17, 20)]
    append_spikes(tmp_path, before)
    with RunFolder(tmp_path).spikes.open("a") as handle:
        handle.write('{"step": 21, "met')
    rewind_spikes(tmp_path, 17)
    assert scan_spikes(tmp_path) == (before[:3], [])
    rewind_spikes(tmp_path, 16)
    assert read_spikes(tmp_path) == before[:1]
    rewind_spikes(tmp_path, None)
    assert read_spikes(tmp_path) == []
    rewind_spikes(tmp_path / "nowhere", 3)
    assert not (tmp_path / "nowhere").exists()


def test_a_half_written_line_is_skipped(tmp_path):
    append_spikes(tmp_path, [{"step": 3, "metric": "kl/k3"}])
    with RunFolder(tmp_path).spikes.open("a") as handle:
        handle.write('{"step": 4, "met')
    assert read_spikes(tmp_path) == [{"step": 3, "metric": "kl/k3"}]
    assert read_spikes(tmp_path / "nowhere") == []


def test_texts_with_odd_line_ends_stay_whole(tmp_path):
    line = {"step": 3, "metric": "kl/k3", "text": "a\u2028b\x85c\nd"}
    append_spikes(tmp_path, [line, line])
    assert read_spikes(tmp_path) == [line, line]
    rewind_spikes(tmp_path, 3)
    assert read_spikes(tmp_path) == [line, line]


def test_damage_is_named_and_for_the_strict_an_error(tmp_path):
    append_spikes(tmp_path, [{"step": 3, "metric": "kl/k3"}, {"step": 4}])
    append_spikes(tmp_path, [{"step": 5, "metric": "kl/k3"}])
    spikes, faults = scan_spikes(tmp_path)
    assert [spike["step"] for spike in spikes] == [3, 5]
    assert [fault.place_in(tmp_path) for fault in faults] == ["spikes.jsonl:2"]
    with pytest.raises(TrackingError, match="spike cannot be read") as caught:
        read_spikes(tmp_path)
    assert caught.value.where.endswith("spikes.jsonl:2")


def test_a_run_without_spikes_has_tags_of_zero_and_an_empty_table():
    tags = spike_tags([])
    assert set(tags.values()) == {"0"}
    assert len(tags) == 1 + len(WATCHED)
    assert spike_table([]).rows == []
