"""Say what is wrong with a configuration in the words of the user's file, at its place in it.

Usage: `raise explain(error, document, ("base",), model=RunConfig)`. Nothing is validated here.
"""

import types
from collections.abc import Collection, Iterable, Iterator
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeGuard,
    Union,
    get_args,
    get_origin,
)

from pydantic import BaseModel, ValidationError

from alpkit.config.files.yaml import Document, Fault, KeyPath, config_error, describe
from alpkit.errors import ConfigError, did_you_mean

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "greater_than": "a number > {gt}",
    "greater_than_equal": "a number >= {ge}",
    "less_than": "a number < {lt}",
    "less_than_equal": "a number <= {le}",
    "too_short": "at least {min_length} item(s)",
    "too_long": "at most {max_length} item(s)",
}


def explain(
    error: ValidationError, document: Document, root_path: KeyPath = (), *, model: type[BaseModel]
) -> ConfigError:
    """Turn every fault that pydantic found in `model` into one readable error.

    `root_path` is where the model's data begin in `document`; names in messages start there too.
    """
    return config_error(faults_of(error, document, root_path, model=model))


def faults_of(
    error: ValidationError,
    document: Document,
    root_path: KeyPath = (),
    *,
    model: type[BaseModel],
    skip: Collection[str] = (),
) -> list[Fault]:
    """List the faults that pydantic found, one per field, leaving out the error types in `skip`."""
    faults: dict[KeyPath, Fault] = {}
    wanted: dict[KeyPath, list[str]] = {}
    for item in error.errors(include_url=False):
        path, node, tag = _walk(model, item["loc"], item["type"] == "extra_forbidden")
        kind, context, seen = item["type"], item.get("ctx", {}), item["input"]
        # pydantic also calls a list too short when its items are invalid.
        invalid = kind == "too_short" and len(seen) >= context["min_length"]
        if kind in skip or invalid:
            continue
        at = (*root_path, *path)
        match kind:
            case "extra_forbidden":
                faults[path] = _unknown_field(document.position(at, key=True), path, node, tag=tag)
            case "value_error":
                # Validators begin with the field they are about, which may lie below the model.
                text = str(context["error"])
                named = tuple(text.split()[0].rstrip(":").split("."))
                if (*at, *named) in document.marks:
                    faults[*path, text] = Fault(
                        document.position((*at, *named)), ".".join([*_names(path), text])
                    )
                else:
                    name = f"{dotted(path)}: " if path else ""
                    faults[*path, text] = Fault(document.position(at), f"{name}{text}")
            case "missing" | "union_tag_not_found":
                if kind == "union_tag_not_found":
                    path = (*path, _key_of(context["discriminator"]))
                faults[path] = Fault(document.position(at), f"{dotted(path)} is missing")
            case _:
                if kind == "union_tag_invalid":
                    key = _key_of(context["discriminator"])
                    path, at, seen = (*path, key), (*at, key), context["tag"]
                    node = [field for branch in node for field in _children(branch, key)]
                options = choices(node)
                wants = wanted.setdefault(path, [])
                wants.append(_want(kind, context, options, item["msg"]))
                what = f"{dotted(path)}: wanted {' or '.join(wants)}, got {_show(kind, seen)}"
                faults[path] = Fault(document.position(at), what, did_you_mean(seen, options))
    return list(faults.values())


def check_path(model: type[BaseModel], path: tuple[str, ...], where: str) -> Fault | None:
    """Return the fault of a dotted path that names no field of `model`, or None."""
    nodes: list[Any] = [model]
    for depth, key in enumerate(path):
        found = [child for node in nodes for child in _children(node, key)]
        if not found:
            return _unknown_field(where, path[: depth + 1], nodes, whole=path)
        nodes = found
    return None


def dotted(path: KeyPath) -> str:
    """Write a path as `a.b[0].c`."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")


def choices(annotations: Iterable[Any]) -> list[str]:
    """List the closed set of strings that the annotations allow; empty if they are not closed."""
    return [
        str(option)
        for annotation in annotations
        for branch in branches(annotation)
        if get_origin(branch) is Literal
        for option in get_args(branch)
    ]


def leaves(model: type[BaseModel]) -> set[str]:
    """List the dotted paths of every field of `model` that is not itself a section."""
    found: set[str] = set()
    for name, info in model.model_fields.items():
        sections = [b for b in branches(info.annotation) if is_section(b)]
        found |= {f"{name}.{leaf}" for section in sections for leaf in leaves(section)}
        found |= set() if sections else {name}
    return found


def _unknown_field(
    where: str, path: KeyPath, nodes: list[Any], *, whole: tuple[str, ...] = (), tag: str = ""
) -> Fault:
    models = [b for node in nodes for b in branches(node) if is_section(b)]
    for model in models:
        if reason := getattr(model, "refused", {}).get(path[-1]):
            return Fault(where, f"{dotted(path)} {reason}")
    allowed = {name for model in models for name in model.model_fields}
    owner = dotted(path[:-1]) or ("the run config" if whole or not models else _title(models[0]))
    hint = did_you_mean(path[-1], allowed, "allowed")
    if not hint.startswith("did you mean") and models:
        below = [leaf for leaf in leaves(models[0]) if leaf.split(".")[-1] == (whole or path)[-1]]
        below = [leaf for leaf in below if leaf.count(".") == min(b.count(".") for b in below)]
        if len(below) == 1:
            hint = f"did you mean {dotted((*path[:-1], below[0]))!r}?  {hint}"
    return Fault(where, f"{dotted(path)} is not a field of {owner}{tag}", hint)


def _title(model: type[BaseModel]) -> str:
    return {
        "RunConfig": "the run config",
        "AblationConfig": "an ablation file",
        "MethodConfig": "a method",
    }.get(model.__name__, model.__name__)


class _Place(NamedTuple):
    path: KeyPath
    annotations: list[Any]
    tag: str


def _walk(model: type[BaseModel], loc: tuple[int | str, ...], unknown_last: bool) -> _Place:
    """Follow pydantic's location, leaving out the union tags and branches in it."""
    path: list[int | str] = []
    nodes: list[Any] = [model]
    tag, labelled = "", False
    for depth, key in enumerate(loc):
        if unknown_last and depth == len(loc) - 1:
            path.append(key)
        elif not labelled and sum(1 for n in nodes for _ in branches(n)) > 1:
            labelled = True
            if tagged := _tagged([b for n in nodes for b in branches(n)], key):
                nodes, tag = tagged, f" ({key})"
        else:
            path.append(key)
            nodes = [child for node in nodes for child in _children(node, key)]
            tag, labelled = "", False
    return _Place(tuple(path), nodes, tag)


def _children(annotation: Any, key: str | int) -> Iterator[Any]:
    for branch in branches(annotation):
        arguments = get_args(branch)
        if is_section(branch):
            if key in branch.model_fields:
                yield branch.model_fields[str(key)].annotation
        elif branch is Any:
            yield Any
        elif get_origin(branch) is dict and isinstance(key, str):
            yield arguments[1]
        elif get_origin(branch) in (list, tuple) and isinstance(key, int):
            yield arguments[0]


def branches(annotation: Any) -> Iterator[Any]:
    """Yield the alternatives of an annotation, leaving out None."""
    if get_origin(annotation) is Annotated:
        yield from branches(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for branch in get_args(annotation):
            # pydantic puts no label into the location of an optional value.
            yield from () if branch is types.NoneType else branches(branch)
    else:
        yield annotation


def is_section(branch: Any) -> TypeGuard[type[BaseModel]]:
    """Whether a branch of an annotation is a section of a config."""
    return isinstance(branch, type) and issubclass(branch, BaseModel)


def _tagged(found: list[Any], tag: str | int) -> list[Any]:
    """Keep the branches that carry a tag: as a field's only choice, else among its choices."""
    options = [
        (branch, choices([info.annotation]))
        for branch in found
        if is_section(branch)
        for info in branch.model_fields.values()
    ]
    only = [branch for branch, listed in options if listed == [tag]]
    return only or [branch for branch, listed in options if tag in listed]


def _want(kind: str, context: dict[str, Any], options: list[str], message: str) -> str:
    if kind in ("literal_error", "union_tag_invalid"):
        return f"one of {', '.join(options)}" if options else str(context["expected"])
    for name in (kind, kind.split("_")[0]):
        if name in _WANTED:
            return _WANTED[name].format(**context)
    return message[0].lower() + message[1:]


def _key_of(discriminator: str) -> str:
    """Give the key that tells a union's branches apart: a field, or a function named like it."""
    return discriminator.strip("'").removesuffix("()")


def _show(kind: str, seen: object) -> str:
    return (
        str(len(seen))
        if kind in ("too_short", "too_long") and isinstance(seen, (list, tuple, dict))
        else describe(seen)
    )


def _names(path: KeyPath) -> list[str]:
    return [dotted(path)] if path else []
