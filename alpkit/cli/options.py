"""Arguments and options that several commands share. Imports none of the library: help texts must be quick."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from alpkit.cli import completing


class LauncherChoice(StrEnum):
    """Name the launchers of `LaunchConfig` again: importing that module for a help text would import pydantic."""

    inline = "inline"
    processes = "processes"
    ray = "ray"


class Retry(StrEnum):
    """Name the ways to treat cells that have run (`alpkit.launch.Retry`)."""

    failed = "failed"
    all = "all"
    none = "none"


class FileKind(StrEnum):
    """Name the kinds of files that have a schema."""

    ablation = "ablation"
    method = "method"


class TrainerChoice(StrEnum):
    """Name the formats of `alpkit import` again, for the same reason."""

    auto = "auto"
    prime_rl = "prime-rl"
    verl = "verl"
    columns = "columns"


File = Annotated[Path, typer.Argument(metavar="FILE", help="Ablation file (YAML).")]
RunId = Annotated[
    str,
    typer.Argument(
        metavar="RUN_ID",
        autocompletion=completing.run_ids,
        help="A folder, an MLflow run id of a grid or cell, `latest`, a grid's name, or the start of one of these.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="K=V",
        help="Set a run field in every cell, for example train.steps=5; repeatable.",
    ),
]
Uri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="MLflow store; default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Mean it: the grid has more than 10,000 cells.")]
GridStore = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store; default: the one the grid was logged to.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
