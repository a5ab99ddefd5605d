"""What a run folder holds, read leniently: manifest, cells, metrics; what cannot be read is named.

A killed run leaves half lines, half files and stale states. Not here: frames of a whole grid
(`alpkit.analysis.frames`), token records (`alpkit.analysis.reading.records`).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd
import yaml
from pydantic import ValidationError

from alpkit.config import ObjectiveConfig
from alpkit.errors import TrackingError

# The same safe subset, ten times as fast where PyYAML was built with libyaml.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Missing(NamedTuple):
    """Something that a reader would expect and that could not be read."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class GridInfo:
    """The manifest's own facts."""

    name: str
    grid_id: str
    folder: Path
    question: str = ""
    created: str = ""
    parent_run_id: str = ""
    tracking_uri: str = ""
    controls: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


CELL_COLUMNS: Final = ("cell_id", "arm", "seed", "state", "steps_done", "run_id", "error", "axes")


def read_manifest(folder: Path, only: str | None) -> tuple[GridInfo, list[dict[str, Any]]]:
    path = folder / "grid.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        cells = list(data["cells"])
        if only is not None:
            cells = [c for c in [*cells, *data.get("retired", [])] if c["cell_id"] == only]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrackingError(
            "the grid's manifest cannot be read",
            where=str(path),
            why=str(error),
            fix="point at a folder that `alpkit run` wrote: runs/<grid>",
        ) from error
    info = GridInfo(
        name=str(data.get("grid", folder.name)),
        grid_id=str(data.get("grid_id", "")),
        folder=folder,
        question=str(data.get("question") or ""),
        created=str(data.get("created") or ""),
        parent_run_id=str(data.get("parent_run_id") or ""),
        tracking_uri=str(data.get("tracking_uri") or ""),
        controls={str(k): str(v) for k, v in (data.get("controls") or {}).items()},
        notes=tuple(str(note) for note in data.get("notes") or ()),
    )
    return info, cells


def read_cell(
    folder: Path, entry: dict[str, Any], live: bool, missing: list[Missing]
) -> tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]:
    """A cell's row, its steps and its configuration."""
    cell = str(entry["cell_id"])
    place = folder / cell
    own: dict[str, Any] = {}
    config: dict[str, Any] = {}
    # The manifest may lag behind: a worker writes its own cell.json, the parent writes grid.json.
    if place.is_dir():
        own = _read_mapping(place / "cell.json", json.loads, missing)
        config = _read_mapping(place / "config.yaml", _load_yaml, missing)
    state = str(own.get("state") or entry.get("state") or "pending")
    # What a SIGKILL of the whole grid leaves behind: a cell that says so, and nobody running it.
    state = "killed" if state == "running" and not live else state
    row = {
        "cell_id": cell,
        "arm": str(entry["arm"]),
        "seed": int(entry["seed"]),
        "state": state,
        "steps_done": int(own.get("steps_done") or 0),
        "run_id": str(own.get("run_id") or entry.get("run_id") or ""),
        "error": str(own.get("error") or ""),
        "axes": dict(entry.get("axes") or {}),
        **headline(config),
    }
    lines: list[dict[str, Any]] = []
    if (place / "metrics.jsonl").is_file():
        lines = _read_jsonl(place / "metrics.jsonl", missing)
    elif state != "pending":
        missing.append(Missing(f"{cell}/metrics.jsonl", f"no metrics, though the cell is {state}"))
    steps = pd.DataFrame(lines)
    if not steps.empty:
        steps = steps.drop_duplicates("step", keep="last").sort_values("step")
        identity = pd.DataFrame(
            {"cell_id": cell, "arm": row["arm"], "seed": row["seed"]}, index=steps.index
        )
        values = steps.drop(columns="step").apply(pd.to_numeric, errors="coerce").astype(float)
        steps = pd.concat([identity, steps["step"].astype(int), values], axis=1)
    return row, steps, config


def _load_yaml(text: str) -> Any:
    return yaml.load(text, _LOADER)


def _read_mapping(path: Path, parse: Any, missing: list[Missing]) -> dict[str, Any]:
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        missing.append(
            Missing(f"{path.parent.name}/{path.name}", f"cannot be read ({_short(error)})")
        )
        return {}
    if not isinstance(value, dict):
        missing.append(Missing(f"{path.parent.name}/{path.name}", "holds no mapping"))
        return {}
    return value


def _read_jsonl(path: Path, missing: list[Missing]) -> list[dict[str, Any]]:
    lines = []
    # A killed worker leaves half a line, possibly half a character.
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            lines.append({**value, "step": int(value["step"])})
        except (ValueError, KeyError, TypeError):
            missing.append(
                Missing(
                    f"{path.parent.name}/{path.name}:{number}", "not a whole line of JSON; left out"
                )
            )
    return lines


def headline(config: dict[str, Any]) -> dict[str, Any]:
    """Config fields that a table or a legend wants, read leniently: old runs stay readable."""
    section = {k: v if isinstance(v, dict) else {} for k, v in config.items()}
    rollout, train = section.get("rollout", {}), section.get("train", {})
    objective, noise = section.get("objective", {}), section.get("perturbation", {})
    ratio = objective.get("ratio") or {}
    return {
        "model": config.get("model"),
        "task": section.get("task", {}).get("name"),
        "engine": rollout.get("engine"),
        "precision": rollout.get("weights") or rollout.get("kv_cache_dtype"),
        "steps_planned": train.get("steps"),
        "updates_per_rollout": train.get("updates_per_rollout"),
        "lr": train.get("lr"),
        "eval_k": section.get("eval", {}).get("k"),
        "denominator": ratio.get("denominator"),
        "level": ratio.get("level"),
        "surrogate": (objective.get("surrogate") or {}).get("kind"),
        "bounds": _bounds(objective),
        "site": noise.get("site"),
        "layers": str(noise["layers"]) if "layers" in noise else None,
        "sigma": (noise.get("sigma") or {}).get("init"),
    }


def _bounds(objective: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    try:
        return ObjectiveConfig.model_validate(objective).bounds
    except ValidationError:  # written by another version: its bounds are unknown, not absent
        return {}


def _short(error: Exception) -> str:
    # An OSError's text names the path, which means nothing on the reader's machine.
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
