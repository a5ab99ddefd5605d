"""Commands that make runs and care for their folders."""

from typing import Annotated

import typer

from alpkit.cli import completing
from alpkit.cli.app import app
from alpkit.cli.errors import SOME_FAILED, Debug
from alpkit.cli.options import File, GridStore, Json, LauncherChoice, Retry, RunId, Sets, Uri, Yes


@app.command()
def run(
    file: File,
    sets: Sets = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Cells at the same time; default: the file's launch.jobs."),
    ] = None,
    launcher: Annotated[
        LauncherChoice | None,
        typer.Option(help="Where cells run; default: the file's launch.launcher."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ARM", help="Run this arm only; repeatable.")
    ] = None,
    retry: Annotated[
        Retry,
        typer.Option(
            help="Cells to run again: those that failed, all from their start, or none that ended badly."
        ),
    ] = Retry.failed,
    fail_fast: Annotated[bool, typer.Option(help="Stop at the first cell that fails.")] = False,
    tracking_uri: Uri = None,
    dry_run: Annotated[
        bool, typer.Option(help="Check everything, print what would run, create nothing.")
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Profile the second step of every cell: a Chrome trace, and a table of where its time went.",
        ),
    ] = False,
    yes: Yes = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the cells of a grid that have not finished; run it again to resume, or after adding to the file.

    Exit code 0: every cell finished; 1: some failed; 2: bad input, nothing created; 130: interrupted.
    """
    from alpkit.cli import running

    options = running.options(
        file,
        jobs=jobs,
        launcher=launcher.value if launcher else None,
        only=only or [],
        retry=retry.value,
        fail_fast=fail_fast,
        tracking_uri=tracking_uri,
        profile=profile,
    )
    done = running.run(file, sets or [], options, dry_run=dry_run, as_json=json, many=yes)
    if not done:
        raise typer.Exit(SOME_FAILED)


@app.command()
def plan(
    file: File,
    sets: Sets = None,
    full: Annotated[bool, typer.Option(help="Print every cell's resolved config as YAML.")] = False,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Also check models and tasks, measure every arm's noise on 64 held-out items, and run one "
            "step of every arm for its time and disk.",
        ),
    ] = False,
    yes: Yes = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print every cell of a grid with its id, axes and state, and whether this device holds it; trains nothing.

    Memory is an estimate from the model's sizes; where it does not fit, the keys to change are named. With
    --probe it loads every perturbed arm's model and sampler once, and says where the noise is so small that the
    arm is nearly its control, or so large that it is another policy; and it takes one step of every arm in a
    temporary folder, and says what time and disk a cell will take.
    """
    from alpkit.cli import looking

    looking.plan(file, sets or [], full=full, probe=probe, as_json=json, many=yes)


@app.command()
def show(
    run_id: RunId = "latest",
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Follow the grid until it ends; with --json a line per event."
        ),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the state of a grid's cells, with their run ids and errors."""
    from alpkit.cli import looking, watching

    if watch:
        watching.watch(run_id, as_json=json)
    if not (watch and json):
        looking.show(run_id, as_json=json)


@app.command()
def clean(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_ID",
            autocompletion=completing.run_ids,
            help="One grid; default: all grids here.",
        ),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is listed.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List what grids keep and no cell needs: cells the file no longer has, old checkpoints, what was set aside.

    Deletes only with --delete. Every finished cell keeps its newest checkpoint; MLflow's runs stay.
    """
    from alpkit.cli import cleaning

    cleaning.clean(run_id, delete=delete, as_json=json)


@app.command()
def sync(
    run_id: RunId = "latest",
    tracking_uri: GridStore = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Send what the store lacks of a grid's folder: after an outage, or into another store; nothing twice."""
    from alpkit.cli import syncing

    syncing.sync(run_id, tracking_uri, as_json=json)


@app.command()
def ui(
    tracking_uri: Uri = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    debug: Debug = False,
) -> None:
    """Start `mlflow ui` on the store, after printing the link that opens the newest grid's charts."""
    from alpkit.cli import looking

    looking.ui(tracking_uri, port)
