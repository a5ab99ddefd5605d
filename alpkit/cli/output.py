"""Print tables for people, JSON for programs, and hints about what to type next."""

import json
import shlex

from rich.console import Console

from alpkit.cli.layout import TextTable, fitted
from alpkit.tracking import DEFAULT_URI, HIDDEN, charts_path, masked

# Where there is no terminal, a row is a line, however long.
_PIPE_WIDTH = 1000


def out() -> Console:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def err() -> Console:
    return Console(stderr=True, highlight=False, markup=False)


def print_json(data: object) -> None:
    print(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False))


def print_table(table: TextTable) -> None:
    """Print a table in the width of the terminal, and name what had no room."""
    console = out()
    arranged = fitted(table, console.width)
    for number, part in enumerate(arranged.tables):
        if number:
            console.print()
        console.print(part)
    if arranged.left_out:
        note(f"a wider terminal and --json also have: {', '.join(arranged.left_out)}")


def say(text: str) -> None:
    """Print a sentence of the result, wrapped at words where there is a terminal."""
    _wrapped(out(), text)


def note(text: str) -> None:
    """Print a remark on stderr, so that stdout holds the result alone."""
    _wrapped(err(), text)


def _wrapped(console: Console, text: str) -> None:
    # An address that is cut in two cannot be copied; where there is no terminal a line stays a line.
    cut = any(len(word) > console.width for word in text.split())
    console.print(text, soft_wrap=cut or not console.is_terminal)


def ui_command(uri: str) -> str:
    """Give the command that shows the store; a password stays in the environment that holds it."""
    if uri == DEFAULT_URI:
        return "mlflow ui"
    if HIDDEN in masked(uri):
        return f'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"  # {masked(uri)}'
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def charts_link(experiment_id: str, base: str = "http://127.0.0.1:5000") -> str:
    """Give the address of an experiment's charts in a UI at `base`."""
    return f"{base}/{charts_path(experiment_id)}"
