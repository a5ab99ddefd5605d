"""The configuration that a run folder holds, as this version reads it.

Fields that an older config lacks take their defaults. Fields that no longer exist are dropped where they had
no effect, and are an error where they had one. Fields that stand elsewhere now are moved.

    load_run(RunFolder(folder).config).cell_id()
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from alpkit.config.files.faults import explain
from alpkit.config.files.yaml import load_yaml
from alpkit.config.hardware import RENAMED
from alpkit.config.run import RunConfig

_REMOVED: Final[Mapping[tuple[str, str], object]] = {("diagnostics", "agreement_with"): None}
"""Fields that were: section and name, with the value at which they did nothing."""


def load_run(path: str | Path) -> RunConfig:
    """Read a run's stored config; raises `ConfigError` with every fault at its line and column."""
    document = load_yaml(path)
    try:
        return RunConfig.model_validate(as_of_now(document.data))
    except ValidationError as error:
        raise explain(error, document, model=RunConfig) from error


def as_of_now(data: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields that a run folder holds under their names and places of this version."""
    return _moved(_without_removed(data))


def _without_removed(data: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(data)
    for (section, name), idle in _REMOVED.items():
        fields = kept.get(section)
        if isinstance(fields, dict) and name in fields and fields[name] == idle:
            kept[section] = {key: value for key, value in fields.items() if key != name}
    return kept


def _moved(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data with what is about the machine in `hardware`."""
    kept, hardware = dict(data), dict(data.get("hardware") or {})
    for (section, name), now in RENAMED.items():
        fields = kept.get(section)
        if isinstance(fields, dict) and name in fields:
            kept[section] = {key: value for key, value in fields.items() if key != name}
            hardware.setdefault(now, fields[name])
            if now == "micro_batch_tokens":
                hardware[now] = _a_bound(fields[name], kept.get("rollout"))
    return kept | {"hardware": hardware} if hardware else kept


def _a_bound(budget: object, rollout: object) -> object:
    """The token budget of a run from before it was a hard bound: room for one response and its prompt."""
    longest = rollout.get("max_tokens") if isinstance(rollout, dict) else None
    if isinstance(budget, int) and isinstance(longest, int) and budget <= longest:
        return 2 * longest
    return budget
