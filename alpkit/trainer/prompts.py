"""The questions of a step: the task's own, without those whose prompts are too long.

They depend on the seed and the step, never on the arm; those that replace a group also on its place and on
how often the step has drawn. No state to keep: a resumed run asks what an uninterrupted one asks.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from alpkit.policy.prompt_lengths import no_prompt_fits
from alpkit.tasks import Item, ListedTask, Task, other_item, train_items

Encode = Callable[[Item], tuple[int, ...]]


class Prompts:
    """Training questions; `limit`: tokens of the longest prompt that is asked (None: any length)."""

    def __init__(self, task: Task, encode: Encode, *, seed: int, limit: int | None) -> None:
        self.encode = encode
        self._seed, self._limit = seed, limit
        self._looked_at = self._too_long = 0
        self._listed = isinstance(task, ListedTask)
        self._task = task
        if isinstance(task, ListedTask) and limit is not None:
            # Thinned out once, so that an epoch is a walk through what is left.
            self._task = replace(task, train=tuple(filter(self._fits, task.train)))
            if not self._task.train:
                raise no_prompt_fits(task.name, limit)

    def of_step(self, step: int, count: int) -> list[Item]:
        """Give the step's questions, one for each place."""
        return train_items(self._task, self._seed, step, count, wanted=self._wanted)

    def again(
        self, step: int, draw: int, places: Sequence[int], taken: Collection[str]
    ) -> list[Item]:
        """Give other questions for these places in a step's n-th further draw; none `taken`, if there are enough."""
        items: list[Item] = []
        seen = set(taken)
        for place in places:
            key = (self._seed, "refill", step, draw, place)
            items.append(other_item(self._task, key, seen, wanted=self._wanted))
            seen.add(items[-1].prompt)
        return items

    def receipt(self) -> dict[str, float]:
        """Return receipt/long_prompts: of the whole list, or of what was drawn since the last call."""
        if self._limit is None:
            return {}
        share = self._too_long / max(self._looked_at, 1)
        if not self._listed:
            self._looked_at = self._too_long = 0
        return {"receipt/long_prompts": share}

    def _wanted(self, item: Item) -> bool:
        return self._listed or self._fits(item)

    def _fits(self, item: Item) -> bool:
        if self._limit is None:
            return True
        fits = len(self.encode(item)) <= self._limit
        self._looked_at += 1
        self._too_long += not fits
        return fits
