"""The command line: one library call per command, nothing heavy imported before one runs.

`alpkit --help` must stay under half a second, so every import of the library is inside a command.
docs/cli.md is generated from here: `python -m alpkit.cli.reference > docs/cli.md`.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from alpkit.cli import completing
from alpkit.cli.errors import SOME_FAILED, Debug, Group

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


@app.command()
def replay(
    methods: Annotated[
        str, typer.Option(metavar="A,B,…", help="Presets or method files (YAML) to compare.")
    ],
    run_id: RunId = "latest",
    steps: Annotated[
        list[int] | None,
        typer.Option("--step", metavar="N", help="A recorded step; repeatable; default: all."),
    ] = None,
    gradients: Annotated[
        bool | None,
        typer.Option(
            help="Compute gradients, or not; default: where the run kept its weights (records.replay)."
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A model with the weights from before the one --step: gradients for a run that kept none.",
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Apply other corrections to a cell's recorded batches and compare what they do; trains nothing.

    Reports loss, ratios, weights, what is removed and how far that overlaps; where the run had
    `records.replay: true`, gradients too. The run's own method is always among them, and is checked against what
    the run logged.
    """
    from alpkit.cli import replaying

    replaying.replay(run_id, methods, steps, gradients, policy, as_json=json)


@app.command("import")
def import_dump(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="prime-rl's token_exports, verl's rollout_data_dir, or a JSONL or Parquet file or folder.",
        ),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The run to write: runs/<grid>/<cell>.")
    ],
    trainer: Annotated[
        TrainerChoice,
        typer.Option("--from", help="Whose format it is; auto looks at the names of the files."),
    ] = TrainerChoice.auto,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="OURS=THEIRS",
            help="A column that goes by another name, for example logp_rollout=sampler_lp; repeatable.",
        ),
    ] = None,
    arm: Annotated[
        str, typer.Option(metavar="NAME", help="The run's arm; default: the format's name.")
    ] = "",
    seed: Annotated[
        int, typer.Option(min=0, help="The run's seed: arms are compared by seed.")
    ] = 0,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model that was trained, for reports.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The loss it trained with, a preset or a method file (YAML); default: not known.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="The longest response it allowed; default: not known.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="The sampler's temperature, for gradients; default: taken to be 1."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn another trainer's token dump into a run folder that analyze, compare and replay read.

    Says what the dump lacks (pi_old, entropy, prompts, …); what cannot be computed without it is left out.
    """
    from alpkit.cli import importing

    mapping = importing.mapping_of(columns or [])
    from alpkit.integrations.importing import Known

    known = Known(
        trainer=trainer.value,
        columns=mapping,
        arm=arm,
        seed=seed,
        model=model,
        objective=objective,
        max_tokens=max_tokens,
        temperature=temperature,
    )
    importing.import_dump(source, folder, known, as_json=json)


@app.command("eval")
def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN_ID|MODEL",
            autocompletion=completing.run_ids,
            help="A cell (its newest checkpoint), builtin:…, a model folder or a hub id.",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="A task's name or section: math, or '{name: math, levels: [1]}'; default: the run's.",
        ),
    ] = None,
    items: Annotated[
        int | None, typer.Option(min=1, help="Held-out items; default: all of a list, else 512.")
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", min=1, help="Samples per item; default: the run's, or 4.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the samples; default: the run's, or 1.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus of the samples; default: 1.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest response; default: the run's, or 512.")
    ] = None,
    suffix: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Put behind every question; default: the run's."),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System message; default: the run's.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Leave the chat template out.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Responses generated at once.")] = 64,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the samples; default: the run's, or 0.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a trained cell or any model on a task: greedy, avg@k and pass@k with intervals over problems.

    Writes nothing. Samples with the transformers engine, a cell in its run's precision, a model in float32.
    """
    from alpkit.cli import evaluating

    evaluating.evaluate(
        what,
        task=task,
        items=items,
        k=k,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        suffix=suffix,
        system=system,
        plain=plain,
        batch=batch,
        seed=seed,
        as_json=json,
    )


@app.command()
def export(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN_ID", help="A cell: its folder, its id, its MLflow run id, or their start."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write, new or empty.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a cell's policy as a folder that transformers and vLLM load: weights, tokenizer, where it comes from.

    The newest checkpoint's weights in float32, without noise. DIR appears whole or not at all.
    """
    from alpkit.cli import exporting

    exporting.export(run_id, folder, as_json=json)


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


def main() -> None:
    """Start the `alpkit` command."""
    app()
