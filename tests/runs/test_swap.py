"""What is written appears whole or not at all."""

import errno
import json
import re

import pytest

from alpkit.errors import TrackingError
from alpkit.runs.swap import remove_unfinished, swapped_file, swapped_folder, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_text_leaves_no_temporary_file_and_is_replaced_whole(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"x": 1})
    write_json(tmp_path / "new" / "a.json", {"x": 2})
    assert names(tmp_path / "new") == ["a.json"]
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"x": 2}


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})

    def write():
        with swapped_file(tmp_path / "a.json") as path:
            path.write_text('{"x"')
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TrackingError, match="the disk is full") as caught:
        write()
    assert caught.value.where == str(tmp_path / "a.json")
    assert re.fullmatch(r"\d+ bytes are free there", caught.value.why)
    assert names(tmp_path) == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_a_folder_is_replaced_whole_and_readable_by_others(tmp_path):
    target = tmp_path / "reports" / "a"
    for name in ("old", "new"):
        with swapped_folder(target) as work:
            (work / name).touch()
            assert names(target.parent) == sorted({work.name, *(["a"] if name == "new" else [])})
    assert names(target) == ["new"]
    assert names(target.parent) == ["a"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_folder_whose_filling_fails_stays_as_it_was(tmp_path):
    target = tmp_path / "a"
    with swapped_folder(target) as work:
        (work / "old").touch()

    def write():
        with swapped_folder(target) as work:
            (work / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(tmp_path) == ["a"]
    assert names(target) == ["old"]


def test_what_a_kill_left_is_removed_and_the_rest_stays(tmp_path):
    (tmp_path / ".a.json.77.tmp").touch()
    (tmp_path / ".step-000010.partial" / "inner").mkdir(parents=True)
    (tmp_path / ".step-000010.x7.tmp").mkdir()
    (tmp_path / "a.json").touch()
    (tmp_path / ".mine").touch()
    remove_unfinished(tmp_path)
    remove_unfinished(tmp_path / "nowhere")
    assert names(tmp_path) == [".mine", "a.json"]
