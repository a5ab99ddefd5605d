"""Print tables for people, JSON for programs, and hints about what to type next."""

import json
import shlex

from rich.console import Console, RenderableType

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


def print_table(table: RenderableType) -> None:
    out().print(table)


def note(text: str) -> None:
    """Print a remark on stderr, so that stdout holds the result alone."""
    err().print(text, soft_wrap=True)


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
