"""Prompts with verifiable rewards: what is asked, and how a response is scored.

A task is a pure function of its configuration; a run's seed and step enter only here, through the keys and
permutations that `train_items` derives. Nothing here knows tokens. docs/tasks.md describes the tasks,
docs/extend.md how to add one.

Usage: `task = load_task(config.task)`, then `train_items(task, seed=0, step=3, count=64)`.
"""

from collections.abc import Callable, Collection, Sequence
from typing import assert_never

from alpkit.config.tasks import (
    AdditionConfig,
    FileConfig,
    MathConfig,
    PluginTaskConfig,
    ReasoningGymConfig,
    TaskConfig,
)
from alpkit.errors import ConfigError
from alpkit.seeds import derive
from alpkit.tasks.grading import Scores
from alpkit.tasks.items import (
    EVAL_SHARE,
    Item,
    ScoresMany,
    Split,
    Task,
    first_in_split,
    score_all,
    split_of,
)
from alpkit.tasks.listed import ListedTask

__all__ = [
    "Item",
    "ListedTask",
    "Scores",
    "ScoresMany",
    "Split",
    "Task",
    "eval_items",
    "first_in_split",
    "load_task",
    "other_item",
    "score_all",
    "split_of",
    "train_items",
]

_REDRAWS = 100  # further keys tried for a prompt that a step already has, or does not want
_STALE_KEYS = 1000  # eval keys in a row without a new question: the task has no more


def train_items(
    task: Task,
    seed: int,
    step: int,
    count: int,
    *,
    wanted: Callable[[Item], bool] = lambda _item: True,
) -> list[Item]:
    """Give the step's training items, for every arm the same.

    A list of questions is walked through in epochs, whatever is `wanted`. Of a task that makes its questions
    up, wanted items are drawn; those of one step are distinct if the task has enough.
    """
    if isinstance(task, ListedTask):
        return task.epoch_items(seed, step, count)
    items: list[Item] = []
    seen: set[str] = set()
    for index in range(count):
        item = other_item(task, (seed, "prompts", step, index), seen, wanted=wanted)
        seen.add(item.prompt)
        items.append(item)
    return items


def other_item(
    task: Task,
    key: tuple[int | str, ...],
    seen: Collection[str],
    *,
    wanted: Callable[[Item], bool] = lambda _item: True,
) -> Item:
    """Draw a training item by `key`: a wanted one whose prompt is none of `seen`, if the task has enough.

    Raises `ConfigError` where no wanted one is found.
    """
    item = task.item("train", derive(*key))
    for redraw in range(_REDRAWS):
        if item.prompt not in seen and wanted(item):
            return item
        item = task.item("train", derive(*key, redraw))
    if not wanted(item):
        raise ConfigError(
            f"task {task.name} makes up no question that is wanted",
            where="rollout.filter.max_prompt",
            why=f"{_REDRAWS + 1} in a row have longer prompts",
            fix="raise it, or use parameters that give shorter questions",
        )
    return item


def eval_items(
    task: Task, count: int | None, *, where: str = "eval.items", fewer: bool = False
) -> list[Item]:
    """Give the first `count` distinct held-out items: one fixed list for all runs.

    None: all of a list of questions. `where` names the setting that asked for too many; `fewer`: a task that
    has not so many gives what it has.
    """
    if isinstance(task, ListedTask):
        found: Sequence[Item] = task.held_out
        if count is None and found:
            count = len(found)
    else:
        found = _distinct(task, count or 0)
    enough = bool(found) if fewer else count is not None and len(found) >= count
    if count is None or not enough:
        raise ConfigError(
            f"task {task.name} cannot supply {count or 'any'} distinct evaluation items",
            where=where,
            why=f"only {len(found)} were found; one question in {EVAL_SHARE} is held out"
            if len(found)
            else "none is held out",
            fix=f"set {where} to at most {len(found)}, or make the task larger"
            if len(found)
            else "set held_out: hash, or evaluate on another task under evals",
        )
    return list(found[:count])


def _distinct(task: Task, count: int) -> list[Item]:
    items: dict[str, Item] = {}
    key = stale = 0
    while len(items) < count and stale < _STALE_KEYS:
        item = task.item("eval", key)
        stale = stale + 1 if item.prompt in items else 0
        items.setdefault(item.prompt, item)
        key += 1
    return list(items.values())


def load_task(config: TaskConfig, *, check: bool = False) -> Task:
    """Build the task that a configuration section names.

    `check`: also read every right answer as the grader would, which takes seconds for thousands of them.
    """
    match config:
        case AdditionConfig():
            from alpkit.tasks import addition

            return addition.load(config)
        case ReasoningGymConfig():
            from alpkit.tasks import reasoning_gym

            return reasoning_gym.load(config)
        case FileConfig():
            from alpkit.tasks import file

            return file.load(config, check=check)
        case MathConfig():
            from alpkit.tasks import math

            return math.load(config, check=check)
        case PluginTaskConfig():
            from alpkit.tasks import plugins

            return plugins.build(config.name, config.params)
        case unknown:
            assert_never(unknown)
