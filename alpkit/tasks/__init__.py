"""Prompts with verifiable rewards: what is asked, and how a response is scored.

A task is a pure function of its configuration: `item(split, key)` never depends on a run's seed or
step, which enter only through the keys that `train_items` derives, nor on anything else of the run.
Nothing here knows tokens.

Usage: `task = load_task(config.task)`, then `train_items(task, seed=0, step=3, count=64)`.
"""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, assert_never

from alpkit.errors import AlpkitError, ConfigError
from alpkit.seeds import derive

if TYPE_CHECKING:
    from alpkit.config.tasks import AdditionConfig, ReasoningGymConfig

Split = Literal["train", "eval"]

_EVAL_SHARE = 10  # one question in ten is held out
_CANDIDATES = 1000  # 0.9**1000 < 1e-45: only a task without eval questions runs out
_REDRAWS = 100  # further keys tried for a prompt that a step already has
_STALE_KEYS = 1000  # eval keys in a row without a new question: the task has no more


class Item(NamedTuple):
    """One prompt and what is needed to score responses to it."""

    prompt: str
    """The text that the model sees, before any chat template."""
    answer: str
    """The one right answer, as a response would write it."""
    payload: object | None = None
    """Whatever the task's own `score` needs beyond the answer."""


class Task(Protocol):
    """A source of items and their reward; a pure function of its configuration."""

    @property
    def name(self) -> str:
        """The name under which questions are hashed into splits."""
        ...

    def item(self, split: Split, key: int) -> Item:
        """Give the item of `key`; different keys may give the same item."""
        ...

    def score(self, item: Item, response: str) -> float:
        """Reward in [0, 1] of a decoded response, special tokens removed."""
        ...


def split_of(name: str, question: str) -> Split:
    """Say to which split a question belongs, for ever: by its text, not by its key or seed."""
    digest = hashlib.blake2b(f"{name}\n{question}".encode(), digest_size=8).digest()
    return "eval" if int.from_bytes(digest, "big") % _EVAL_SHARE == 0 else "train"


def first_in_split(
    name: str, split: Split, key: int, candidate: Callable[[int], tuple[str, Item]]
) -> Item:
    """Walk the candidates of `key` to the first whose question is in `split`.

    `candidate` turns a 63-bit number into (question, item).
    """
    for attempt in range(_CANDIDATES):
        question, item = candidate(derive("item", name, key, attempt))
        if split_of(name, question) == split:
            return item
    raise AlpkitError(
        f"task {name} has no {split} question among {_CANDIDATES} candidates of key {key}",
        why="a question is held out by the hash of its text, and this task has very few questions",
        fix="use parameters that give more distinct questions",
    )


def train_items(task: Task, seed: int, step: int, count: int) -> list[Item]:
    """Give the step's training items, for every arm the same; distinct if the task has enough."""
    items: list[Item] = []
    seen: set[str] = set()
    for index in range(count):
        item = task.item("train", derive(seed, "prompts", step, index))
        for redraw in range(_REDRAWS):
            if item.prompt not in seen:
                break
            item = task.item("train", derive(seed, "prompts", step, index, redraw))
        seen.add(item.prompt)
        items.append(item)
    return items


def eval_items(task: Task, count: int) -> list[Item]:
    """Give the first `count` distinct held-out items: one fixed list for all runs."""
    items: dict[str, Item] = {}
    key = stale = 0
    while len(items) < count:
        item = task.item("eval", key)
        stale = stale + 1 if item.prompt in items else 0
        if stale == _STALE_KEYS:
            raise ConfigError(
                f"task {task.name} cannot supply {count} distinct evaluation items",
                where="eval.items",
                why=f"only {len(items)} were found; one question in {_EVAL_SHARE} is held out",
                fix=f"set eval.items to at most {len(items)}, or make the task larger",
            )
        items.setdefault(item.prompt, item)
        key += 1
    return list(items.values())


def load_task(config: "AdditionConfig | ReasoningGymConfig") -> Task:
    """Build the task that a configuration section names."""
    match config.name:
        case "addition":
            from alpkit.tasks.addition import Addition

            return Addition(digits=config.digits)
        case "reasoning_gym":
            from alpkit.tasks.reasoning_gym import ReasoningGym

            return ReasoningGym(config.dataset, config.params, seed=config.seed)
        case unknown:
            assert_never(unknown)
