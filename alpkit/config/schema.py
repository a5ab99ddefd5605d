"""JSON schemas of an ablation file and of a method file, for editors that complete and check YAML.

Made from the same models as everything else; what stands under a field is its help. A schema cannot know what
`alpkit plan` knows (which fields an arm uses, whether numbers fit one another), so it never refuses what
alpkit takes, and refuses what is misspelt or of the wrong kind.

`alpkit schema > experiments/ablation.schema.json` writes the committed one.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel

from alpkit.config.bases import BASES
from alpkit.config.environment import environment_names
from alpkit.config.files.faults import branches, is_section
from alpkit.config.grid.ablation import AblationConfig
from alpkit.config.grid.own_methods import MethodConfig
from alpkit.config.perturbation import LAYERS
from alpkit.config.presets import PRESETS
from alpkit.config.run import RunConfig
from alpkit.config.tasks import plugin_names

Schema = dict[str, Any]
Kind = Literal["ablation", "method"]
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_NOT_IN_BASE: Final = ("objective", "perturbation", "seed")
_IN_LISTS: Final = ("EvalSetConfig", "RejectRatio", "RejectDivergence")
"""Sections that stand in lists: nothing is laid over their entries, so each must be whole."""
_READ_BEFORE: Final[Mapping[str, Schema]] = {
    "PerturbationConfig.layers": {
        "anyOf": [
            {"type": "string", "pattern": f"^({LAYERS.pattern})$"},
            {"type": "array", "items": {"type": "integer", "minimum": 0}},
        ]
    },
    "PerturbationConfig.schedule": {
        "anyOf": [{"$ref": "#/$defs/ScheduleConfig"}, {"const": "constant"}]
    },
    "LaunchConfig.jobs": {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]},
    "TrackingConfig.metrics": {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    },
}
"""Fields that validators read before pydantic does, so that their annotation is not all that they take."""


_OFFERED: Final[Mapping[str, Callable[[], Sequence[str]]]] = {
    "PluginTaskConfig": plugin_names,
    "PluginEnvironmentConfig": environment_names,
}
"""Sections whose names installed packages offer; without any, the section is in no schema."""


def schema(kind: Kind) -> Schema:
    """Give the schema of one kind of file."""
    return ablation_schema() if kind == "ablation" else method_schema()


def ablation_schema() -> Schema:
    """Give the schema of an ablation file; tasks of installed packages are among the names."""
    parts = _Parts()
    run = parts.run
    arm = {**run, "preset": {"description": "The method that the arm starts from."}}
    arm["name"] = {"type": "string", "description": "What the arm is called; default: its preset."}
    whole = AblationConfig.model_json_schema()
    parts.add(whole.pop("$defs"))
    fields = parts.dotted()
    own = whole["properties"] = {k: _without_defaults(v) for k, v in whole["properties"].items()}
    own["name"] |= {"pattern": "^[a-z0-9][a-z0-9._-]*$", "not": {"const": "latest"}}
    own["base"] = _nullable(
        _closed(
            {
                "from": {
                    "enum": sorted(BASES),
                    "description": "A published base that these go over.",
                },
                **{key: value for key, value in run.items() if key not in _NOT_IN_BASE},
            },
            own["base"]["description"],
        )
    )
    named: Schema = {"anyOf": [{"required": ["preset"]}, {"required": ["name"]}]}
    own["arms"]["items"] = {"anyOf": [{"$ref": "#/$defs/Preset"}, {**_closed(arm), **named}]}
    arm["preset"] |= {"$ref": "#/$defs/Preset"}
    combination = _of_fields(fields)
    combination["properties"] = {"arm": {"type": "string"}, **combination["properties"]}
    parts.defs |= {"Axes": _of_fields(fields, each=True), "Combination": combination}
    for name in ("axes", "zip"):
        own[name] = _nullable({"$ref": "#/$defs/Axes", **_text(own[name])})
    for name, needs in (("include", {"required": ["arm"]}), ("exclude", {})):
        entries = {"type": "array", "items": {"$ref": "#/$defs/Combination", **needs}}
        own[name] = _nullable({**entries, **_text(own[name])})
    for name in own:
        if "$ref" in own[name]:
            own[name] = _nullable(own[name])
    whole |= _presets_are_known()
    return _finished(whole, parts.defs, "An ablation file of alpkit")


def method_schema() -> Schema:
    """Give the schema of a method file."""
    parts = _Parts()
    whole = MethodConfig.model_json_schema()
    own = whole["properties"]
    own["preset"] |= {"enum": sorted(PRESETS)}
    for name in ("objective", "perturbation"):
        own[name] = {**parts.run[name], **_text(own[name])}
    return _finished(whole, parts.defs, "A method file of alpkit")


def as_text(schema: Schema) -> str:
    """Write a schema as it is committed."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


class _Parts:
    """The sections of a run as schemas in which nothing is required: a section may be completed elsewhere."""

    def __init__(self) -> None:
        schema = RunConfig.model_json_schema()
        self.defs: Schema = {}
        self.add(schema.pop("$defs"))
        self.run: Schema = {
            name: self._section(_without_defaults(value))
            for name, value in schema["properties"].items()
            if name != "seed"
        }

    def add(self, defs: Schema) -> None:
        """Take up definitions, each made partial and without defaults that are sections."""
        new = {name: copy.deepcopy(value) for name, value in defs.items() if name not in self.defs}
        self.defs |= new
        for name, value in new.items():
            if name not in _IN_LISTS:
                value.pop("required", None)
            for key, each in value.setdefault("properties", {}).items():
                read = _READ_BEFORE.get(f"{name}.{key}")
                value["properties"][key] = _without_defaults(
                    {**_text(each), **read} if read else each
                )
        for name, offered in _OFFERED.items():
            if name in new:
                new[name]["properties"]["name"] = {"enum": list(offered())}
        # A union is made of its finished branches.
        for value in new.values():
            value["properties"] = {k: self._section(v) for k, v in value["properties"].items()}

    def dotted(self) -> dict[str, Schema]:
        """Give the schema of every dotted run field, sections included; only `seed` cannot be varied."""
        return dict(_dotted(RunConfig, {k: _brief(v) for k, v in self.run.items()}, self.defs))

    def _section(self, value: Schema) -> Schema:
        """Make one section of a union: known keys always, those of one kind where the kind is named."""
        if "items" in value and "oneOf" in value["items"]:
            return {**value, "items": self._section(value["items"])}
        if any("oneOf" in branch for branch in value.get("anyOf", ())):
            return {**value, "anyOf": [self._section(branch) for branch in value["anyOf"]]}
        references = value.get("oneOf") or value.get("anyOf") or []
        names = [r["$ref"].rpartition("/")[2] for r in references if "$ref" in r]
        if len(names) > 1:
            others = [r for r in references if "$ref" not in r]
            union = self._union(names)
            rest = {k: v for k, v in value.items() if k not in ("oneOf", "anyOf", "discriminator")}
            return {**rest, "anyOf": [union, *others]} if others else {**rest, **union}
        return value

    def _union(self, names: Sequence[str]) -> Schema:
        names = [name for name in names if name not in _OFFERED or _OFFERED[name]()]
        if len(names) == 1:
            return {"$ref": f"#/$defs/{names[0]}"}
        branches = [self.defs[name]["properties"] for name in names]
        key = next(
            key
            for key in branches[0]
            if _tell_apart([_options(branch.get(key, {})) for branch in branches])
        )
        together: Schema = {}
        for name in names:
            for field, each in self.defs[name]["properties"].items():
                known = together.setdefault(field, [])
                known += [] if each in known else [each]
        properties = {f: v[0] if len(v) == 1 else {"anyOf": v} for f, v in together.items()}
        options = {n: _options(self.defs[n]["properties"][key]) for n in names}
        properties[key] = {"enum": [option for each in options.values() for option in each]}
        kinds = [
            {
                "if": {"properties": {key: {"enum": options[name]}}, "required": [key]},
                "then": {"$ref": f"#/$defs/{name}"},
            }
            for name in names
        ]
        name = f"{key.capitalize()}Of{names[0]}"
        self.defs[name] = {**_closed(properties), "allOf": kinds}
        return {"$ref": f"#/$defs/{name}"}


def _dotted(
    model: type[BaseModel], properties: Schema, defs: Schema, prefix: str = ""
) -> Iterator[tuple[str, Schema]]:
    for name, info in model.model_fields.items():
        if prefix + name == "seed":
            continue
        yield prefix + name, properties[name]
        for branch in branches(info.annotation):
            below = [b for b in branches(branch)]
            for section in below:
                if is_section(section):
                    held = {k: _brief(v) for k, v in defs[section.__name__]["properties"].items()}
                    yield from _dotted(section, held, defs, f"{prefix}{name}.")
                elif getattr(section, "__origin__", None) is dict:
                    yield f"{prefix}{name}.*", {}


def _of_fields(fields: Mapping[str, Schema], *, each: bool = False) -> Schema:
    """A closed mapping of dotted fields: to one value, or to a list of values."""

    def shape(value: Schema) -> Schema:
        return {"type": "array", "minItems": 1, "items": value} if each else value

    open_ended = [name for name in fields if name.endswith(".*")]
    known: dict[str, list[Schema]] = {}
    for name, value in fields.items():
        if name not in open_ended:
            known.setdefault(name, []).append(value)
    return {
        **_closed({name: shape(values[0]) for name, values in known.items()}),
        "patternProperties": {f"^{re.escape(name[:-1])}": shape({}) for name in open_ended},
    }


def _presets_are_known() -> Schema:
    """Only a file without method files of its own names nothing but presets of the package."""
    return {
        "if": {"not": {"required": ["methods"]}},
        "then": {"properties": {"arms": {"items": {"$ref": "#/$defs/ArmOfPresets"}}}},
    }


def _finished(whole: Schema, defs: Schema, title: str) -> Schema:
    presets = sorted(PRESETS)
    defs = {
        **defs,
        "Preset": {
            "type": "string",
            "examples": presets,
            "description": "A preset, or a method of `methods`.",
        },
        "ArmOfPresets": {
            "anyOf": [
                {"enum": presets},
                {"type": "object", "properties": {"preset": {"enum": presets}}},
            ]
        },
    }
    used = _used({key: value for key, value in whole.items() if key != "$defs"}, defs)
    whole = _reduced({**whole, "$defs": {name: defs[name] for name in sorted(used)}})
    return {"$schema": _DIALECT, "title": title, **whole}


def _used(schema: object, defs: Schema) -> set[str]:
    """Names of the definitions that a schema leads to."""
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        for name in re.findall(r"#/\$defs/(\w+)", json.dumps(waiting.pop())):
            if name not in found:
                found.add(name)
                waiting.append(defs[name])
    return found


def _reduced(schema: Any) -> Any:
    """Leave out pydantic's titles, and join the lines of what stands under a field."""
    if isinstance(schema, list):
        return [_reduced(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "description" and isinstance(value, str):
            value = " ".join(value.split())
        found[key] = _reduced(value)
    return found


def _closed(properties: Schema, description: str = "") -> Schema:
    text = {"description": description} if description else {}
    return {"type": "object", **text, "properties": properties, "additionalProperties": False}


def _brief(schema: Schema) -> Schema:
    """Leave out what is said where the field itself is described."""
    return {key: value for key, value in schema.items() if key not in ("description", "default")}


def _nullable(schema: Schema) -> Schema:
    """A key whose content is commented out is as good as absent."""
    return {"anyOf": [schema, {"type": "null"}], **_text(schema)}


def _text(schema: Schema) -> Schema:
    return {"description": schema["description"]} if "description" in schema else {}


def _without_defaults(schema: Schema) -> Schema:
    """A section's default is the sum of its fields' own."""
    if isinstance(schema.get("default"), (dict, list)):
        return {key: value for key, value in schema.items() if key != "default"}
    return dict(schema)


def _tell_apart(options: Sequence[Sequence[str]]) -> bool:
    """Whether every branch has values of its own under a key."""
    listed = [option for each in options for option in each]
    return all(options) and len(set(listed)) == len(listed)


def _options(schema: Schema) -> list[str]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))
