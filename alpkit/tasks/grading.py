"""Compare responses with the right answers, many at a time.

A grader takes (gold, response) pairs; `Scores` says what each is worth and which checks did not come to an end.
The graders of text are here, mathematics is in `alpkit.tasks.math`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from alpkit.tasks.matching import matches


class Scores(NamedTuple):
    """Rewards in [0, 1], in the order of the responses."""

    rewards: list[float]
    timeouts: int | None = None
    """Checks that ran past their deadline and score 0; None where no check can."""
    failures: int | None = None
    """Checks that broke down (out of memory, a fault in a parser) and score 0."""


class Grader(Protocol):
    """Compares responses with gold answers."""

    def grade(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        """Score (gold, response) pairs."""
        ...

    def faults(self, golds: Sequence[str]) -> dict[int, str]:
        """Say which gold answers no response could match, by index, with the reason."""
        ...


class ExactGrader:
    """The whole response is the answer; runs of spaces count as one."""

    def grade(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        return Scores([float(gold.split() == response.split()) for gold, response in pairs])

    def faults(self, golds: Sequence[str]) -> dict[int, str]:
        return {i: "it is empty" for i, gold in enumerate(golds) if not gold.strip()}


class NumberGrader:
    """The last number in the response is the answer, by value."""

    def grade(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        return Scores([float(matches(response, _plain(gold))) for gold, response in pairs])

    def faults(self, golds: Sequence[str]) -> dict[int, str]:
        return {
            i: f"{gold.strip()!r} is no number" if gold.strip() else "it is empty"
            for i, gold in enumerate(golds)
            if not re.fullmatch(r"-?(?:0|[1-9]\d*)(?:\.\d+)?", _plain(gold))
        }


def _plain(gold: str) -> str:
    return gold.strip().replace(",", "")
