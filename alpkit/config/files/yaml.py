"""Read YAML by the 1.2 core schema, and remember where everything stood.

PyYAML's own schema is YAML 1.1: `1e-5` is text, `on` is true, `010` is 8, and of two equal keys
the second wins silently. Here they are a float, text, 10, and an error. What a file's content
means is not decided here (`faults.py`, `grid/ablation.py`).

Usage: `load_yaml("experiments/quickstart.yaml").position(("base", "train", "steps"))`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from pydantic import BaseModel

from alpkit.errors import ConfigError
from alpkit.errors import Fault as Fault

KeyPath = tuple[str | int, ...]


class Mark(NamedTuple):
    """The position of an entry: of its key, and of its value (a container's value is marked by its key)."""

    key: str
    value: str


@dataclass(frozen=True)
class Document:
    """Plain data, and the position of every key and value in it."""

    data: Any
    marks: Mapping[KeyPath, Mark]

    @classmethod
    def constant(cls, data: object, where: str) -> "Document":
        """Wrap data that came from one place: a preset, a command-line option."""
        return cls(data, {(): Mark(where, where)})

    def position(self, path: KeyPath, *, key: bool = False) -> str:
        """Give `file:line:column` of the entry at `path`, or of its nearest ancestor in the document."""
        while path and path not in self.marks:
            path, key = path[:-1], False
        mark = self.marks[path]
        return mark.key if key else mark.value


_BYTES: Final = 1_000_000
"""Longest file that is read: the largest experiment of this repository has 6 KB."""
_ENTRIES: Final = 50_000
"""Most entries of one document, aliases followed: a bomb of 1 KB has billions."""
_DIGITS: Final = 40
_SHOWN: Final = 60
_FAULTS: Final = 20
"""Faults that one message lists."""


def config_error(faults: Iterable[Fault]) -> ConfigError:
    """Merge faults into one error: no repetition, in the order of the file."""
    unique = sorted(dict.fromkeys(faults), key=_line)
    texts = [f"{f.what}\n  {f.hint}" if f.hint else f.what for f in unique]
    if len(unique) == 1:
        error = ConfigError(texts[0], where=unique[0].where)
        error.faults = tuple(unique)
        return error
    listed = [f"{f.where}  {t}" for f, t in zip(unique, texts, strict=True)]
    more = [f"and {len(listed) - _FAULTS} more"] if len(listed) > _FAULTS else []
    error = ConfigError("\n".join([*listed[:_FAULTS], *more]))
    error.faults = tuple(unique)
    return error


def _line(fault: Fault) -> tuple[str, int, int]:
    match = re.fullmatch(r"(.*):(\d+):(\d+)", fault.where)
    return (match[1], int(match[2]), int(match[3])) if match else ("", 0, 0)


_TAG = "tag:yaml.org,2002:"
_CORE_SCHEMA = {
    "null": r"|~|null|Null|NULL",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own protocol


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes whatever YAML 1.1 or 1.2 would not read back as the same text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern in _CORE_SCHEMA.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), None)


def load_yaml(path: str | Path) -> Document:
    """Read a file whose top level is a mapping; raises `ConfigError` with every fault in it."""
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(_BYTES + 1)
        if len(data) > _BYTES:
            raise ConfigError(
                f"is longer than {_BYTES:,} bytes",
                where=name,
                why="an ablation is a page of text",
                fix="check the path",
            )
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError("there is no such file", where=name, fix="check the path") from error
    except IsADirectoryError as error:
        raise ConfigError("is a folder", where=name, fix="name a YAML file inside it") from error
    except UnicodeDecodeError as error:
        seen = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise ConfigError(
            "is not UTF-8 text", where=name, why=seen, fix="save it as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=name) from error
    document = parse_yaml(text, name)
    if document.data is None:
        raise ConfigError("the file is empty", where=name, fix="see experiments/quickstart.yaml")
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"the top level must be a mapping, got {describe(document.data)}",
            where=document.position(()),
        )
    return document


def parse_yaml(text: str, name: str) -> Document:
    """Read YAML text; `name` stands for the file in positions."""
    reader = _Reader(name)
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = None if node is None else reader.read(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        context = f" ({error.context})" if error.context else ""
        raise ConfigError(f"not valid YAML: {error.problem}{context}", where=where) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = (
            "nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        )
        raise ConfigError(f"not valid YAML: {reason}", where=name) from error
    if reader.faults:
        raise config_error(reader.faults)
    return Document(data, reader.marks or {(): Mark(name, name)})


def dump_yaml(config: BaseModel) -> str:
    """Write a config as YAML that `load_yaml` and any YAML 1.1 reader turn into the same config."""
    data = config.model_dump(mode="json")
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def describe(value: object) -> str:
    """Say what a value is, in the words of a YAML file."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case str():
            return f"the text {shortened(value)!r}"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case int() if abs(value) >= 10**_DIGITS:
            return f"a number of more than {_DIGITS} digits"
        case _:
            return shortened(repr(value))


def shortened(text: str) -> str:
    """Cut a text to what a message can show."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@dataclass
class _Reader:
    """Turns composed nodes into data, noting positions and collecting faults."""

    name: str
    marks: dict[KeyPath, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    _open: set[int] = field(default_factory=set)

    def read(self, node: yaml.Node, path: KeyPath, key: yaml.Node | None = None) -> Any:
        if len(self.marks) >= _ENTRIES:
            where = self._at(node)
            raise ConfigError(
                f"more than {_ENTRIES:,} entries",
                where=where,
                why="aliases count as often as they are used",
                fix="write less, or write out what the aliases stand for",
            )
        here = self._at(node)
        at_key = here if key is None else self._at(key)
        self.marks[path] = Mark(at_key, here if isinstance(node, yaml.ScalarNode) else at_key)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            return self._fault(node, "an alias refers to the mapping or list that contains it")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
                return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))
        return self._fault(node, f"the tag {shortened(node.tag)} is not supported")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.value:
            name = self._scalar(key) if isinstance(key, yaml.ScalarNode) else None
            if not isinstance(name, str):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a mapping or list"
                self._fault(key, f"keys must be text, got {shortened(shown)}", "quote it")
            elif name == "<<":
                self._fault(key, "merge keys (<<) are not read", "repeat the entries")
            elif name in data:
                first = self.marks[(*path, name)].key
                self._fault(
                    key,
                    f"duplicate key {shortened(name)!r} (first at {first})",
                    "remove one of them",
                )
            else:
                data[name] = self.read(value, (*path, name), key)
        return data

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = node.value
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(text) > _DIGITS:
            return self._fault(node, f"a number of {len(text)} characters", "write it shorter")
        try:
            match node.tag.removeprefix(_TAG):
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
                case "float":
                    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (ValueError, KeyError):
            what = f"{shortened(text)!r} does not fit the tag {shortened(node.tag)}"
            return self._fault(node, what)
        return self._fault(node, f"the tag {shortened(node.tag)} is not supported")

    def _at(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def _fault(self, node: yaml.Node, what: str, hint: str = "") -> None:
        self.faults.append(Fault(self._at(node), what, hint))
