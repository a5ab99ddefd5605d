"""Check names that a configuration gives to things outside of it: data sets, files, models.

Imports no torch, and asks the hub for two seconds at most.
"""

import importlib.util
import json
import os
import threading
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Final, Literal

from alpkit.config.tasks import (
    AdditionConfig,
    FileConfig,
    MathConfig,
    PluginTaskConfig,
    ReasoningGymConfig,
    TaskConfig,
)
from alpkit.errors import ConfigError, PrerequisiteError, did_you_mean
from alpkit.policy.folders import BUILTINS

PATIENCE: Final = 2.0
"""Seconds after which the hub is taken for out of reach."""
_DATA_FILES: Final = (".parquet", ".jsonl", ".json", ".csv")
Answer = Literal["there", "not there", "not for you", "silent"]


def check_task_name(task: TaskConfig) -> None:
    """Refuse a data set, parameter or file that does not exist; builds what is cheap to build."""
    match task:
        case ReasoningGymConfig():
            _need("reasoning_gym", task.name)
            _build(task.model_dump_json())
        case FileConfig():
            _need("datasets", task.name)
            _check_file(task)
        case PluginTaskConfig():
            _build(task.model_dump_json())
        case MathConfig():
            if task.set != "builtin":
                _need("datasets", task.name)
        case AdditionConfig():
            pass


def check_model_name(name: str, revision: str | None) -> None:
    """Refuse a model that is neither built in, nor a folder with a config, nor on the hub."""
    short = {full.removeprefix("builtin:"): full for full in BUILTINS}
    if name in short or (name.startswith("builtin:") and name not in BUILTINS):
        near = did_you_mean(name, BUILTINS, "built-in")
        raise ConfigError(
            f"{name} is not a built-in model" if ":" in name else f"{name} lacks its builtin:",
            where="model",
            fix=f"write {short[name]}" if name in short else near,
        )
    if name in BUILTINS:
        return
    path = Path(name).expanduser()
    if path.is_dir():
        _check_folder(name, path)
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PrerequisiteError(
            f"model folder {name} does not exist",
            where="model",
            why=f"looked for it from {Path.cwd()}",
            fix=f"correct the path, or use a hub id or {' or '.join(BUILTINS)}",
        )
    elif not _in_cache(name, revision):
        _check_hub(name, revision)


def _need(package: str, task: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise PrerequisiteError(
            f"the {task} tasks need a package that is not installed here",
            where="task.name",
            why=f"{package} cannot be imported",
            fix="pip install 'alpkit[tasks]', or use task.name: addition",
        )


@cache
def _build(task: str) -> None:
    """Build a task; the package behind it refuses what it does not know."""
    from pydantic import TypeAdapter

    from alpkit.tasks import load_task

    load_task(TypeAdapter[TaskConfig](TaskConfig).validate_json(task))


def _check_file(task: FileConfig) -> None:
    place = Path(task.path).expanduser()
    if place.suffix.lower() in _DATA_FILES and not place.is_file():
        raise PrerequisiteError(
            f"data file {task.path} does not exist",
            where="task.path",
            why=f"looked for it from {Path.cwd()}",
            fix="correct the path; relative ones start at the working directory",
        )


def _check_folder(name: str, path: Path) -> None:
    """A model's folder has a `config.json` that names an architecture."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        reason = (
            "" if isinstance(config, dict) and config.get("model_type") else "names no model_type"
        )
    except FileNotFoundError:
        reason = "is missing"
    except (OSError, ValueError) as error:
        reason = f"cannot be read ({str(error).splitlines()[0]})"
    if reason:
        raise PrerequisiteError(
            f"model folder {name} is no model",
            where="model",
            why=f"its config.json {reason}",
            fix="give a folder as save_pretrained writes it: config.json, weights, tokenizer",
        )


def _in_cache(name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)


def _check_hub(name: str, revision: str | None) -> None:
    answer = "silent" if offline() else ask_hub(f"{name}/resolve/{revision or 'main'}/config.json")
    if answer == "there":
        return
    if answer == "not there":
        raise ConfigError(
            f"{name} is neither a folder here nor a model of the hub",
            where="model",
            why=f"the hub has no config.json of it{f' at {revision}' if revision else ''}",
            fix=did_you_mean(name, BUILTINS) or f"correct the id, or use {' or '.join(BUILTINS)}",
        )
    why = {
        "not for you": "the hub has no such model, or wants a login that may see it (HF_TOKEN)",
        "silent": "HF_HUB_OFFLINE is set"
        if offline()
        else f"the hub did not answer within {PATIENCE:g} s",
    }[answer]
    raise PrerequisiteError(
        f"model {name} is not in the cache of this machine",
        where="model",
        why=why,
        fix=f"download it where there is a network (hf download {name}), or use a local folder, "
        f"{' or '.join(BUILTINS)}",
    )


def offline() -> bool:
    """Whether the user keeps the hub out of it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@cache
def ask_hub(path: str, *, patience: float = PATIENCE) -> Answer:
    """Ask the hub for a file, for `patience` seconds and no longer: a name server alone may take a minute."""
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(_head(path, patience)), daemon=True)
    thread.start()
    thread.join(patience)
    return answers[0] if answers else "silent"


def _head(path: str, patience: float) -> Answer:
    base = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    request = urllib.request.Request(f"{base}/{path}", method="HEAD")
    if token := os.environ.get("HF_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=patience):
            return "there"
    except urllib.error.HTTPError as error:
        # The hub answers 401 for what does not exist as for what is not yours.
        return "not there" if error.code == 404 else "not for you"
    except (OSError, ValueError):
        return "silent"
