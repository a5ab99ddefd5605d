"""Show failures on the terminal: a panel for what the user can act on, a traceback for bugs."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

INTERRUPTED = 130
SOME_FAILED = 1
_DEBUG = "alpkit.debug"


class Group(TyperGroup):
    """Turns an `AlpkitError` from any command into its panel and exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit with 130 when interrupted."""
        from alpkit.errors import AlpkitError

        try:
            return super().invoke(ctx)
        except AlpkitError as error:
            if ctx.meta.get(_DEBUG):
                raise
            show(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; run the same command again to resume\n")
            raise typer.Exit(INTERRUPTED) from None


def show(error: Exception) -> None:
    """Print an error on stderr: as a panel on a terminal, as plain text elsewhere."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console(stderr=True)
    if console.is_terminal:
        console.print(Panel(Text(str(error)), title=type(error).__name__, border_style="red"))
    else:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")


def _remember(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.find_root().meta[_DEBUG] = True
    return value


Debug = Annotated[
    bool, typer.Option("--debug", callback=_remember, help="Show the traceback of an error.")
]
