"""The command line: one library call per command, nothing heavy imported before one runs.

`alpkit --help` must stay under half a second, so every import of the library is inside a command.
docs/cli.md is generated from here: `python -m alpkit.cli.reference > docs/cli.md`.
"""

from alpkit.cli import commands
from alpkit.cli.app import app

__all__ = ["app", "commands", "main"]


def main() -> None:
    """Start the `alpkit` command."""
    app()
