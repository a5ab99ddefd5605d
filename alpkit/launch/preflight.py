"""Find what is missing before anything is created: packages, models, layers, places to write.

Looks for packages without importing them, and at a model's config without reading its weights.
"""

import importlib.util
from collections.abc import Iterable
from functools import cache
from urllib.parse import urlparse

from alpkit.config import Cell, RunConfig
from alpkit.config.environment import PluginEnvironmentConfig, ToolMathConfig
from alpkit.config.tasks import PLAIN_PROMPT, PromptConfig
from alpkit.errors import AlpkitError, ConfigError, PrerequisiteError
from alpkit.launch.base import visible_gpus
from alpkit.tracking import masked


def check_cells(cells: Iterable[Cell], *, models: bool = True) -> None:
    """Check that this machine has what the cells need; raises for the first thing that it lacks.

    `models`: check the models too; another trainer may take `model` for something else.
    """
    for cell in cells:
        try:
            _check_engine(cell.config)
            _check_optimizer(cell.config)
            _check_task(cell.config)
            _check_environment(cell.config)
            if models:
                _check_model(cell.config)
        except AlpkitError as error:
            error.where = f"{error.where} of cell {cell.cell_id} ({cell.arm}, seed {cell.seed})"
            raise


def check_store(uri: str) -> None:
    """Refuse a place that MLflow cannot keep runs in."""
    scheme = urlparse(uri).scheme
    if scheme in ("", "file"):
        raise ConfigError(
            f"{masked(uri)} is a folder, and MLflow keeps runs in folders no longer",
            where="tracking store",
            fix="use sqlite:///mlflow.db, another database URI or http://server",
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


def _check_task(config: RunConfig) -> None:
    tasks = [config.task, *(entry.task for entry in config.evals if entry.task is not None)]
    needed = {"reasoning_gym": "reasoning_gym", "file": "datasets"}
    for task in tasks:
        package = needed.get(task.name)
        if package is not None and not _installed(package):
            raise PrerequisiteError(
                f"the {task.name} tasks need a package that is not installed here",
                where="task.name",
                why=f"{package} cannot be imported",
                fix="pip install 'alpkit[tasks]', or use task.name: addition",
            )
    # A reasoning_gym task alone is built where its model is looked at: importing the package takes seconds.
    if config.evals or any(task.name != "reasoning_gym" for task in tasks):
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
