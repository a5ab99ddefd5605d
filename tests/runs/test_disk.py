"""A full disk: the words for it, and no half line in any file that grows."""

import errno
import re

import pytest

from alpkit.errors import TrackingError
from alpkit.runs import disk
from alpkit.runs.evaluations import Counts, append_evaluations, read_evaluations
from alpkit.runs.folder import RunFolder
from alpkit.runs.spike_log import append_spikes, read_spikes
from alpkit.runs.steps import CellTracker, read_steps


def log_step(folder, step):
    CellTracker(folder).log(step, {"reward/mean": 0.5})


def log_spike(folder, step):
    append_spikes(folder, [{"step": step, "metric": "kl/k3"}])


def log_evaluation(folder, step):
    append_evaluations(folder, [Counts(step, "easy", 1, [1], [1.0], [1.0], ["a"])])


def steps_of(rows):
    return [row["step"] if isinstance(row, dict) else row.step for row in rows]


@pytest.mark.parametrize(
    ("append", "read", "name"),
    [
        (log_step, read_steps, "metrics"),
        (log_spike, read_spikes, "spikes"),
        (log_evaluation, read_evaluations, "evaluations"),
    ],
)
def test_what_a_full_disk_cuts_short_is_taken_back(tmp_path, monkeypatch, append, read, name):
    append(tmp_path, 0)
    path = getattr(RunFolder(tmp_path), name)
    before = path.read_bytes()

    def nine_bytes(handle, data):
        handle.write(data[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "_write", nine_bytes)
        with pytest.raises(TrackingError, match="the disk is full") as caught:
            append(tmp_path, 1)
    assert caught.value.where == str(path)
    assert re.fullmatch(r"\d+ bytes are free there", caught.value.why)
    assert path.read_bytes() == before
    append(tmp_path, 1)
    assert steps_of(read(tmp_path)) == [0, 1]
