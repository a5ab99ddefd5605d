"""Tasks and environments that other packages offer as entry points.

An entry point names a class or a function; called with the section's `params` it gives a `Task`, or an
`Environment`. docs/extend.md shows a task from start to end.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Final, NamedTuple, cast

from alpkit.config.environment import ENVIRONMENT_GROUP
from alpkit.config.tasks import PLUGIN_GROUP
from alpkit.errors import AlpkitError, ConfigError, PrerequisiteError
from alpkit.tasks.environments import Environment
from alpkit.tasks.items import Task


class _Kind(NamedTuple):
    """What packages offer: its word and its section, the group of its entry points, and what it must have."""

    word: str
    group: str
    parts: tuple[str, ...]


_TASK: Final = _Kind("task", PLUGIN_GROUP, ("name", "item", "score"))
_ENVIRONMENT: Final = _Kind("environment", ENVIRONMENT_GROUP, ("start", "reply", "close"))


def build(name: str, params: Mapping[str, object]) -> Task:
    """Build the task that an entry point names; its package's faults are told as its own."""
    return cast(Task, _build(_TASK, name, params))


def build_environment(name: str, params: Mapping[str, object]) -> Environment:
    """Build the environment that an entry point names, as `build` does a task."""
    return cast(Environment, _build(_ENVIRONMENT, name, params))


def _build(kind: _Kind, name: str, params: Mapping[str, object]) -> object:
    points = list(entry_points(group=kind.group, name=name))
    if not points:
        raise PrerequisiteError(
            f"no installed package offers the {kind.word} {name!r}",
            where=f"{kind.word}.name",
            why=f"found: {', '.join(sorted(p.name for p in entry_points(group=kind.group))) or 'none'}",
            fix=f"install the package that has an entry point {name!r} in the group {kind.group}",
        )
    point = points[0]
    if len({(p.value, p.dist.name if p.dist else "") for p in points}) > 1:
        raise PrerequisiteError(
            f"two installed packages offer the {kind.word} {name!r}",
            where=f"{kind.word}.name",
            why=", ".join(p.value for p in points),
            fix="uninstall one of them",
        )
    try:
        make = cast(Callable[..., object], point.load())
    except Exception as error:
        raise PrerequisiteError(
            f"the {kind.word} {name!r} cannot be imported",
            where=f"{kind.word}.name",
            why=f"{point.value}: {type(error).__name__}: {error}",
            fix="repair or uninstall its package",
        ) from error
    try:
        built = make(**params)
    except AlpkitError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"the {kind.word} {name!r} refuses its parameters",
            where=f"{kind.word}.params",
            why=str(error) or type(error).__name__,
            fix=f"see {point.value}",
        ) from error
    missing = [part for part in kind.parts if not hasattr(built, part)]
    if missing:
        raise ConfigError(
            f"what {point.value} gives is no {kind.word}",
            where=f"{kind.word}.name",
            why=f"it lacks {', '.join(missing)}",
            fix=f"see docs/extend.md for what {_an(kind.word)} needs",
        )
    return built


def _an(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
