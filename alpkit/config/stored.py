"""The configuration that a run folder holds, as this version reads it.

Fields that an older config lacks take their defaults. Fields that no longer exist are dropped where they had
no effect, and are an error where they had one.

    load_run(RunFolder(folder).config).cell_id()
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from alpkit.config.files.faults import explain
from alpkit.config.files.yaml import load_yaml
from alpkit.config.run import RunConfig

_REMOVED: Final[Mapping[tuple[str, str], object]] = {("diagnostics", "agreement_with"): None}
"""Fields that were: section and name, with the value at which they did nothing."""


def load_run(path: str | Path) -> RunConfig:
    """Read a run's stored config; raises `ConfigError` with every fault at its line and column."""
    document = load_yaml(path)
    try:
        return RunConfig.model_validate(_without_removed(document.data))
    except ValidationError as error:
        raise explain(error, document, model=RunConfig) from error


def _without_removed(data: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(data)
    for (section, name), idle in _REMOVED.items():
        fields = kept.get(section)
        if isinstance(fields, dict) and name in fields and fields[name] == idle:
            kept[section] = {key: value for key, value in fields.items() if key != name}
    return kept
