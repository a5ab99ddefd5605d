"""Label a grid's runs in the store: tags, parameters, the commit."""

import platform
import subprocess

from alpkit.config import Cell
from alpkit.runs.states import Manifest


def parent_tags(manifest: Manifest) -> dict[str, str]:
    """Give the tags of the grid's parent run."""
    tags = {
        "alpkit.grid_id": manifest.grid_id,
        "alpkit.git": manifest.git,
        "alpkit.host": platform.node(),
    }
    return tags | ({"mlflow.note.content": manifest.question} if manifest.question else {})


def child_tags(cell: Cell, manifest: Manifest) -> dict[str, str]:
    """Give the tags of one cell's run."""
    return {
        "alpkit.grid_id": manifest.grid_id,
        "alpkit.cell_id": cell.cell_id,
        "alpkit.arm": cell.arm,
        "alpkit.seed": str(cell.seed),
        "alpkit.git": manifest.git,
    }


def params(cell: Cell) -> dict[str, object]:
    """Give a run's parameters in the store: the fields that the grid varies, and those that tell runs apart."""
    config, objective, noise = cell.config, cell.config.objective, cell.config.perturbation
    rollout = config.rollout
    params: dict[str, object] = {
        "arm": cell.arm,
        "seed": cell.seed,
        "model": config.model,
        "dtype": config.dtype,
        "head": config.head,
        "task": config.task.name,
        "rollout.engine": rollout.engine,
        "rollout.lag": rollout.lag,
        "rollout.prompts": rollout.prompts,
        "rollout.group": rollout.group,
        "train.steps": config.train.steps,
        "train.updates_per_rollout": config.train.updates_per_rollout,
        "train.lr": config.train.lr,
        "objective.denominator": objective.ratio.denominator,
        "objective.level": objective.ratio.level,
        "objective.surrogate": objective.surrogate.kind,
        "objective.epsilon_low": objective.surrogate.epsilon_low,
        "objective.epsilon_high": objective.surrogate.epsilon_high,
        "objective.weight": objective.weight.action,
        "objective.aggregate": objective.aggregate,
        "perturbation.site": noise.site if noise else "none",
        "perturbation.layers": noise.layers if noise else "none",
        "perturbation.sigma": noise.sigma.init if noise else 0.0,
    }
    match rollout.engine:
        case "hf":
            params["rollout.weights"] = rollout.weights
        case "vllm":
            params["rollout.dtype"] = rollout.dtype
            params["rollout.head_dtype"] = rollout.head_dtype
            params["rollout.kv_cache_dtype"] = rollout.kv_cache_dtype
    return params | cell.axes


def git_commit() -> str:
    """Give the commit of the working directory, `-dirty` with local changes; empty outside a repository."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""
