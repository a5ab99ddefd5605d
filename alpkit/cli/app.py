"""The Typer application that commands register with, and what stands before a command."""

from typing import Annotated

import typer

from alpkit.cli.errors import Debug, Group

app = typer.Typer(
    name="alpkit",
    cls=Group,
    help="Ablate off-policy corrections for RL on language models, and measure the ratio's tail.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    # Rich help texts would cost three times the start-up.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from alpkit import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Take the options that stand before a command."""
