"""Commands that read runs: reports, comparisons, differences."""

from typing import Annotated

import typer

from alpkit.cli import completing
from alpkit.cli.app import app
from alpkit.cli.errors import Debug
from alpkit.cli.options import GridStore, Json, RunId


@app.command()
def analyze(
    run_id: RunId = "latest",
    tracking_uri: GridStore = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the report of a grid (tables, figures, HTML) to reports/ and to its parent run."""
    from alpkit.cli import analyzing

    analyzing.analyze(run_id, tracking_uri, as_json=json)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="A B …",
            autocompletion=completing.arms,
            help="Arms (GRID:ARM), cells or whole grids; the first is the reference.",
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Compare even where task, model or engine differ.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare arms of one grid or of several: their scores, their settings, and which differences exceed seed noise."""
    from alpkit.cli import comparing

    comparing.compare(runs, force=force, as_json=json)


@app.command()
def diff(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A",
            autocompletion=completing.arms,
            help="A cell, GRID:ARM, FILE.yaml:ARM, or a cell's config.yaml.",
        ),
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", autocompletion=completing.arms, help="Another one.")
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the fields in which two resolved configurations differ, of cells that ran or of files."""
    from alpkit.cli import differing

    differing.diff(first, second, as_json=json)
