"""Sums of two numbers, in the order in which people write them: "123+456=" and "579".

The built-in model `builtin:tiny-addition` answers about half of the three-digit sums.
"""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from alpkit.config.tasks import AdditionConfig
from alpkit.tasks.items import Item, Split, first_in_split


@dataclass(frozen=True)
class Addition:
    """Sums of two operands of exactly `digits` digits; reward 1 for the exact sum, else 0."""

    digits: int = 3
    name: ClassVar[str] = "addition"

    def item(self, split: Split, key: int) -> Item:
        return first_in_split(self.name, split, key, self._candidate)

    def score(self, item: Item, response: str) -> float:
        return float(response.strip() == item.answer)

    def _candidate(self, stream: int) -> tuple[str, Item]:
        draw = Random(stream)
        low, high = 10 ** (self.digits - 1), 10**self.digits
        left, right = draw.randrange(low, high), draw.randrange(low, high)
        question = f"{left}+{right}="
        return question, Item(question, str(left + right))


def load(config: AdditionConfig) -> Addition:
    """Build the task of a configuration section."""
    return Addition(digits=config.digits)
