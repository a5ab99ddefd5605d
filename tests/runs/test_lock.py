"""One process at a time holds a grid, and the kernel lets go for it."""

import errno
import fcntl
import subprocess
import sys

import pytest

from alpkit.errors import GridError
from alpkit.runs.lock import can_lock, is_live, lock


def test_one_process_at_a_time_holds_a_grid(tmp_path):
    folder = tmp_path / "g"
    assert not is_live(folder)
    hold = (
        "import sys, pathlib\nfrom alpkit.runs.lock import lock\n"
        "with lock(pathlib.Path(sys.argv[1])):\n print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    assert is_live(folder)
    with pytest.raises(GridError, match="running already") as caught, lock(folder):
        pass
    assert str(process.pid) in caught.value.why
    process.kill()
    process.communicate()
    assert not is_live(folder)
    with lock(folder):
        assert is_live(folder)


def test_a_file_system_without_locks_is_told_from_a_running_launch(tmp_path, monkeypatch, caplog):
    def refuse(*_args):
        raise OSError(errno.ENOLCK, "No locks available")

    assert can_lock(tmp_path / "free")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock(tmp_path / "g"):
        assert not is_live(tmp_path / "g")
    (record,) = caplog.records
    assert "without locks (No locks available)" in record.getMessage()
    assert not can_lock(tmp_path / "none")
