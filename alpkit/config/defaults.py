"""A table of every default of a run, committed so that none changes unnoticed.

A changed default makes other cells of the same file, so it needs a new `DEFAULTS_VERSION`
(`identity.py`). A new field needs none, only its line in the table:

    python -m alpkit.config.defaults tests/config/defaults.json
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from alpkit.config.files.faults import branches, choices, is_section
from alpkit.config.identity import APART, DEFAULTS_VERSION, canonical, differences
from alpkit.config.run import RunConfig
from alpkit.errors import AlpkitError, ConfigError

COMMAND: Final = "python -m alpkit.config.defaults tests/config/defaults.json"
_REQUIRED: Final = "(required)"


class Defaults(NamedTuple):
    """Defaults by dotted field; a section with alternatives is written `rollout[vllm].dtype`."""

    version: int
    fields: dict[str, object]


def defaults(model: type[BaseModel] = RunConfig) -> Defaults:
    """Collect the defaults that ids depend on."""
    fields = dict(_rows(model, ""))
    return Defaults(
        DEFAULTS_VERSION, {k: v for k, v in fields.items() if k.split(".")[0] not in APART}
    )


def read(path: Path) -> Defaults:
    """Read a table that `write` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return Defaults(data["version"], data["fields"])


def write(path: Path, table: Defaults) -> None:
    """Write the table; raises `ConfigError` where the one that is there forbids it."""
    if path.exists() and (text := unversioned(read(path), table)):
        raise ConfigError(
            text,
            where=str(path),
            why="files that left it at its default would go on in cells that were run with the old one",
            fix="raise DEFAULTS_VERSION in alpkit/config/identity.py by one, then run this again",
        )
    path.write_text(json.dumps(table._asdict(), indent=1) + "\n", encoding="utf-8")


def unversioned(before: Defaults, now: Defaults) -> str:
    """Say which defaults changed though the version is no newer; empty if none did."""
    if now.version > before.version:
        return ""
    both = [key for key in before.fields if key in now.fields]
    changed = [
        f"{key} was {_text(before.fields[key])}, is {_text(now.fields[key])}"
        for key in both
        if _text(before.fields[key]) != _text(now.fields[key])
    ]
    return f"defaults changed: {'; '.join(changed)}" if changed else ""


def _rows(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, object]]:
    for name, info in model.model_fields.items():
        default = info.get_default(call_default_factory=True, validated_data={})
        below = list(sections(info.annotation))
        if default is PydanticUndefined:
            yield prefix + name, _REQUIRED
        else:
            shown = differences(default) if isinstance(default, BaseModel) else default
            yield prefix + name, json.loads(canonical(shown))
        for section in below:
            label = "" if len(below) == 1 else f"[{_kind(section, below)}]"
            yield from _rows(section, f"{prefix}{name}{label}.")


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections that an annotation allows, also those inside a list."""
    for branch in branches(annotation):
        if is_section(branch):
            yield branch
        elif get_origin(branch) in (list, tuple):
            yield from sections(get_args(branch)[0])


def _kind(section: type[BaseModel], siblings: list[type[BaseModel]]) -> str:
    """Find the first value of the field that tells `section` from its siblings."""
    for name, info in section.model_fields.items():
        own = choices([info.annotation])
        others = [s.model_fields[name].annotation for s in siblings if name in s.model_fields]
        if own and len(others) == len(siblings) and sorted(choices(others)).count(own[0]) == 1:
            return own[0]
    return section.__name__


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]), defaults())
    except AlpkitError as error:
        sys.exit(str(error))
