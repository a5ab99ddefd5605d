"""Tasks that are a list of questions: a data file, a problem set.

Training walks through them in epochs: every question once in an order of the seed's own, then again in
another. Evaluation takes held-out questions only, in an order that has nothing to do with the file's.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import NamedTuple

from alpkit.config.tasks import HeldOut
from alpkit.errors import ConfigError
from alpkit.seeds import derive
from alpkit.tasks.grading import Grader, Scores
from alpkit.tasks.items import Item, Split, split_of


class Row(NamedTuple):
    """A question with its right answer, and where it was read from."""

    question: str
    answer: str
    where: str


@dataclass(frozen=True)
class ListedTask:
    """Finitely many questions, split for ever into those that are trained on and those held out."""

    name: str
    train: tuple[Item, ...]
    held_out: tuple[Item, ...]
    grader: Grader

    def items(self, split: Split) -> tuple[Item, ...]:
        """Give all items of a split."""
        return self.train if split == "train" else self.held_out

    def item(self, split: Split, key: int) -> Item:
        items = self.items(split)
        if not items:
            raise ConfigError(
                f"task {self.name} has no {split} question",
                where="task.held_out",
                fix="held_out: hash keeps one question in ten for evaluation, all or none all or none of them",
            )
        return items[key % len(items)]

    def score(self, item: Item, response: str) -> float:
        return self.score_all([item], [response]).rewards[0]

    def score_all(self, items: Sequence[Item], responses: Sequence[str]) -> Scores:
        """Score many responses at once."""
        answers = [item.answer for item in items]
        return self.grader.grade(list(zip(answers, responses, strict=True)))

    def without(self, prompts: Collection[str]) -> "ListedTask":
        """Leave questions that are evaluated elsewhere out of training."""
        return replace(self, train=tuple(item for item in self.train if item.prompt not in prompts))

    def epoch_items(self, seed: int, step: int, count: int) -> list[Item]:
        """Give the items of a step (the first is 1): no item comes twice before all have come."""
        size = len(self.train)
        if not size:
            self.item("train", 0)
        start = (step - 1) * count
        places = range(start, start + count)
        return [
            self.train[_order(size, derive(seed, "epoch", place // size))[place % size]]
            for place in places
        ]


@lru_cache(maxsize=4)
def _order(size: int, key: int) -> tuple[int, ...]:
    order = list(range(size))
    Random(key).shuffle(order)
    return tuple(order)


def listed(name: str, rows: Iterable[Row], grader: Grader, held_out: HeldOut) -> ListedTask:
    """Split rows into training and evaluation; a question that comes twice is kept once.

    Raises `ConfigError` where one question has two answers, and where nothing is left.
    """
    first: dict[str, Row] = {}
    for row in rows:
        known = first.setdefault(row.question.strip(), row)
        if known.answer.split() != row.answer.split():
            raise ConfigError(
                f"one question has two answers: {known.answer!r} and {row.answer!r}",
                where=row.where,
                why=f"the same question stands at {known.where}: {row.question.strip()[:80]!r}",
                fix="remove one of the rows",
            )
    if not first:
        raise ConfigError(
            f"task {name} has no question", where="task", fix="choose a split with rows"
        )
    items = [Item(question, row.answer) for question, row in first.items()]
    ranked = sorted(
        items, key=lambda item: hashlib.blake2b(item.prompt.encode(), digest_size=16).digest()
    )
    match held_out:
        case "hash":
            train = [item for item in items if split_of(name, item.prompt) == "train"]
            ranked = [item for item in ranked if split_of(name, item.prompt) == "eval"]
        case "all":
            train = []
        case "none":
            train, ranked = items, []
    return ListedTask(name, tuple(train), tuple(ranked), grader)
