"""Tasks that other packages offer under the entry points `alpkit.tasks`.

An entry point names a class or a function; called with the section's `params` it gives a `Task`.
docs/extend.md shows one from start to end.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import cast

from alpkit.config.tasks import PLUGIN_GROUP, plugin_names
from alpkit.errors import AlpkitError, ConfigError, PrerequisiteError
from alpkit.tasks.items import Task


def build(name: str, params: Mapping[str, object]) -> Task:
    """Build the task that an entry point names; its package's faults are told as its own."""
    points = list(entry_points(group=PLUGIN_GROUP, name=name))
    if not points:
        raise PrerequisiteError(
            f"no installed package offers the task {name!r}",
            where="task.name",
            why=f"found: {', '.join(plugin_names()) or 'none'}",
            fix=f"install the package that has an entry point {name!r} in the group {PLUGIN_GROUP}",
        )
    point = points[0]
    if len({(p.value, p.dist.name if p.dist else "") for p in points}) > 1:
        raise PrerequisiteError(
            f"two installed packages offer a task {name!r}",
            where="task.name",
            why=", ".join(p.value for p in points),
            fix="uninstall one of them",
        )
    try:
        make = cast(Callable[..., Task], point.load())
    except Exception as error:
        raise PrerequisiteError(
            f"the task {name!r} cannot be imported",
            where="task.name",
            why=f"{point.value}: {type(error).__name__}: {error}",
            fix="repair or uninstall its package",
        ) from error
    try:
        task = make(**params)
    except AlpkitError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"the task {name!r} refuses its parameters",
            where="task.params",
            why=str(error) or type(error).__name__,
            fix=f"see {point.value}",
        ) from error
    missing = [part for part in ("name", "item", "score") if not hasattr(task, part)]
    if missing:
        raise ConfigError(
            f"what {point.value} gives is no task",
            where="task.name",
            why=f"it lacks {', '.join(missing)}",
            fix="see docs/extend.md for what a task needs",
        )
    return task
