"""Define what every task offers: items, their split, and the reward of a response. Knows no tokens.

A task is a pure function of its configuration: `item(split, key)` depends on no seed, step or other part of
a run. `alpkit.tasks.contract` checks that of any task.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from alpkit.errors import AlpkitError
from alpkit.seeds import derive
from alpkit.tasks.grading import Scores

Split = Literal["train", "eval"]

EVAL_SHARE = 10  # one question in ten is held out
_CANDIDATES = 1000  # 0.9**1000 < 1e-45: only a task without eval questions runs out


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


@runtime_checkable
class ScoresMany(Protocol):
    """A task that scores many responses faster at once than one by one."""

    def score_all(self, items: Sequence[Item], responses: Sequence[str]) -> Scores:
        """Score responses, one per item."""
        ...


def score_all(task: Task, items: Sequence[Item], responses: Sequence[str]) -> Scores:
    """Score responses, one per item, in whatever way the task does it best."""
    if isinstance(task, ScoresMany):
        return task.score_all(items, responses)
    return Scores([task.score(item, text) for item, text in zip(items, responses, strict=True)])


def split_of(name: str, question: str) -> Split:
    """Say to which split a question belongs, for ever: by its text, not by its key or seed."""
    digest = hashlib.blake2b(f"{name}\n{question}".encode(), digest_size=8).digest()
    return "eval" if int.from_bytes(digest, "big") % EVAL_SHARE == 0 else "train"


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
