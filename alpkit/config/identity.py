"""A cell's id: a hash of the fields that differ from the defaults, and of the version of the defaults.

A new field therefore changes no id, because no earlier cell sets it. A changed default does change ids, but
only through `DEFAULTS_VERSION`; the committed table of defaults (`defaults.py`) shows when it has to rise.

    cell_id(identity(config))
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

DEFAULTS_VERSION: Final = 2
"""Raised by one whenever a default changes, because cells that took the old default are then other cells."""

APART: Final = frozenset({"checkpoint", "hardware"})
"""Fields of a run that change none of its numbers."""


def identity(config: BaseModel) -> dict[str, object]:
    """Return, JSON-ready, the settings that decide a run's numbers.

    Two configs have the same identity exactly when all of their resolved fields, except `APART`, are equal.
    """
    fields = differences(config)
    return {
        "defaults": DEFAULTS_VERSION,
        "fields": {name: value for name, value in fields.items() if name not in APART},
    }


def cell_id(identity: Mapping[str, object]) -> str:
    """Return the first 10 hex digits of SHA-256 over the identity."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:10]


def differences(section: BaseModel, default: BaseModel | None = None) -> dict[str, object]:
    """Return the fields of `section` that differ from `default`, a section of its class.

    Without a default they are compared with those of its class, and what names the class among its
    alternatives (`engine: vllm`, `statistic: k3`) is always there.
    """
    kept: dict[str, object] = {}
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        usual = _usual(info) if default is None else getattr(default, name)
        if isinstance(value, BaseModel) and type(usual) is type(value):
            if below := differences(value, usual):
                kept[name] = below
        elif not _same(value, usual):
            kept[name] = _shortened(value)
    return kept


def canonical(value: object) -> str:
    """Write a value as JSON whose text is equal exactly if the values are."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _usual(info: FieldInfo) -> object:
    """The field's default; `PydanticUndefined` where it has none, or names its class."""
    if get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1:
        return PydanticUndefined
    if info.default_factory is None:
        return info.default  # `get_default` would copy what is only looked at
    return info.get_default(call_default_factory=True, validated_data={})


def _same(value: object, usual: object) -> bool:
    if type(value) is not type(usual):
        return False
    # repr tells -0.0 from 0.0, as JSON does, and is quicker.
    plain = value is None or isinstance(value, (str, int, float))
    return repr(value) == repr(usual) if plain else canonical(value) == canonical(usual)


def _shortened(value: object) -> object:
    match value:
        case BaseModel():
            return differences(value)
        case list() | tuple():
            return [_shortened(item) for item in value]
        case _:
            return value


def _plain(value: object) -> object:
    match value:
        case BaseModel():
            return value.model_dump(mode="json")
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
