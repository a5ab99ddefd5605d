"""Commands that use what a run left, or what another trainer left: replay, evaluation, export, import."""

from pathlib import Path
from typing import Annotated

import typer

from alpkit.cli import completing
from alpkit.cli.app import app
from alpkit.cli.errors import Debug
from alpkit.cli.options import Json, RunId, TrainerChoice


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
