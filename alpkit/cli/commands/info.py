"""Commands about methods, files and this machine."""

from pathlib import Path
from typing import Annotated

import typer

from alpkit.cli import completing
from alpkit.cli.app import app
from alpkit.cli.errors import SOME_FAILED, Debug
from alpkit.cli.options import FileKind, Json, Uri


@app.command()
def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=completing.presets,
            help="A preset or a method file (YAML), for its whole card.",
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the correction methods; with a NAME its formula, axes, source and when not to use it."""
    from alpkit.cli import looking

    looking.methods(name, as_json=json)


@app.command()
def doctor(
    explain_gap: Annotated[
        str | None,
        typer.Option(
            "--explain-gap",
            metavar="FILE:ARM",
            autocompletion=completing.arms,
            help="Split the log-prob gap of an arm of a file, or of a cell, into its causes.",
        ),
    ] = None,
    items: Annotated[int, typer.Option(min=1, help="Prompts that the gap is measured on.")] = 32,
    figure: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The gap's figure; default: gap.png.")
    ] = None,
    tracking_uri: Uri = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check what this machine offers: versions, devices, engines, store, disk, sandbox, ports.

    With --explain-gap it samples from the engine, scores the same tokens step by step from the trainer to the
    sampler, and says how much of their gap is whose. Exit code 1: something is amiss.
    """
    from alpkit.cli import doctoring

    if explain_gap is not None:
        doctoring.explain_gap(explain_gap, items=items, figure=figure, as_json=json)
    elif not doctoring.check(tracking_uri, as_json=json):
        raise typer.Exit(SOME_FAILED)


@app.command()
def examples(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME …",
            autocompletion=completing.example_names,
            help="Grids to copy, or all; without one they are listed.",
        ),
    ] = None,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Where copies go.")] = Path("experiments"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that differ.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the experiments that come with the package, or copy some with the files that they name."""
    from alpkit.cli import shipping

    if names:
        shipping.copy_examples(names, to, force=force, as_json=json)
    else:
        shipping.list_examples(as_json=json)


@app.command()
def schema(
    kind: Annotated[
        FileKind, typer.Argument(metavar="[ablation|method]", help="Which file it is for.")
    ] = FileKind.ablation,
    debug: Debug = False,
) -> None:
    """Print the JSON schema of an ablation file or a method file, for an editor that checks YAML.

    The experiments name the shipped one in their first line. Print your own where a package adds tasks.
    """
    from alpkit.config.schema import as_text
    from alpkit.config.schema import schema as schema_of

    print(as_text(schema_of(kind.value)), end="")
