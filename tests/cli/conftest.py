"""A command line, run in this process."""

import sys

import pytest

from alpkit.cli import main


@pytest.fixture
def call(monkeypatch, capsys):
    """Run one command line in this process; give exit code, stdout and stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["alpkit", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run
