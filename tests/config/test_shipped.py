"""The shipped experiments: listed, copied with what they name, and in the wheel."""

import json
from pathlib import Path

import pytest

from alpkit.config import expand, load_ablation
from alpkit.config.shipped import FOLDER, copy, examples
from alpkit.errors import GridError

ROOT = Path(__file__).parents[2]


def test_every_committed_grid_is_an_example_with_a_question():
    committed = {p for p in (ROOT / "experiments").rglob("*.yaml") if "\narms:" in p.read_text()}
    found = examples()
    assert {each.path.resolve() for each in found} == {path.resolve() for path in committed}
    assert all(each.question for each in found)
    quickstart = next(each for each in found if each.name == "quickstart")
    assert quickstart.cost.startswith("about")


def test_a_copy_is_whole_and_loads(tmp_path):
    written = copy(["all"], tmp_path)
    for each in examples():
        path = tmp_path / each.path.relative_to(FOLDER)
        assert path in written
        expand(load_ablation(path), many=True)
        for method in load_ablation(path).config.methods:
            assert (path.parent / method).is_file()
        first = path.read_text().splitlines()[0]
        assert (path.parent / first.partition("$schema=")[2]).is_file()


def test_a_data_file_comes_along(tmp_path):
    assert tmp_path / "tool_tiny.jsonl" in copy(["tool_tiny"], tmp_path)


def test_nothing_is_overwritten_unless_told(tmp_path):
    (path,) = [p for p in copy(["quickstart"], tmp_path) if p.suffix == ".yaml"]
    assert copy(["quickstart"], tmp_path)  # the same content may be written again
    path.write_text("mine")
    with pytest.raises(GridError, match="would be overwritten"):
        copy(["all"], tmp_path)
    assert not (tmp_path / "paper").exists()
    copy(["quickstart"], tmp_path, force=True)
    assert path.read_text() != "mine"
    with pytest.raises(GridError, match="no example 'quickstrat'") as error:
        copy(["quickstrat"], tmp_path)
    assert "did you mean 'quickstart'?" in str(error.value)


def test_the_command_lists_and_copies(tmp_path, monkeypatch):
    import subprocess
    import sys

    def call(*args):
        command = [sys.executable, "-m", "alpkit", "examples", *args]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert "quickstart" in call()
    written = json.loads(call("quickstart", "--json"))["written"]
    assert written[0] == "experiments/quickstart.yaml"
    assert (tmp_path / written[0]).is_file()
