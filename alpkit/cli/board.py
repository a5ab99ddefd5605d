"""The running cells of a grid as numbers: how far each is, how fast, and when all of it will be over.

Fed with a launcher's events (`alpkit.cli.progress`) or with what a folder holds (`alpkit.cli.watching`).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

HEADLINE: Final = (("reward/mean", "reward"), ("kl/k3", "kl"), ("ratio/raw/token/width", "width"))
"""Headline metrics of a line, and what they are called there."""
_TOKENS: Final = "progress/tokens"


@dataclass
class Running:
    """One cell that runs."""

    name: str
    steps: int
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    tokens_per_second: float | None = None
    _seen: tuple[float, float] | None = None

    def take(self, step: int, metrics: Mapping[str, float], now: float) -> None:
        """Take one step's metrics; two steps with a count of tokens give a speed."""
        self.step = step
        self.metrics = {**self.metrics, **metrics}
        tokens = metrics.get(_TOKENS)
        if tokens is None:
            return
        if self._seen is not None and now > self._seen[0] and tokens > self._seen[1]:
            self.tokens_per_second = (tokens - self._seen[1]) / (now - self._seen[0])
        self._seen = (now, tokens)

    def headline(self) -> str:
        """Format the newest metrics, those that there are: `reward 0.512  kl 0.0031  width 0.42  900 tok/s`."""
        parts = [f"{name} {self.metrics[key]:.3g}" for key, name in HEADLINE if key in self.metrics]
        if self.tokens_per_second is not None:
            parts.append(f"{speed(self.tokens_per_second)} tok/s")
        return "  ".join(parts)


class Board:
    """Every cell of a launch: `left` steps of each, and those that run."""

    def __init__(
        self, left: Mapping[str, int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._left, self._clock = dict(left), clock
        self.total, self.cells, self.ended = sum(left.values()), len(left), 0
        self.running: dict[str, Running] = {}
        self._began = clock()
        self._resumed = 0

    @property
    def done(self) -> int:
        """Steps that are taken, of all cells together."""
        return self.total - sum(self._left.values())

    @property
    def elapsed(self) -> float:
        """Seconds since the board was made."""
        return self._clock() - self._began

    def start(self, cell_id: str, name: str, steps: int) -> None:
        """Show a cell among those that run."""
        self.running[cell_id] = Running(name, steps)

    def step(self, cell_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """Take a step of a running cell. One that goes on from a checkpoint did not take what was before."""
        cell = self.running[cell_id]
        left = cell.steps - step
        if cell.step == 0 and step > 1:
            self._resumed += max(0, self._left[cell_id] - left - 1)
        self._left[cell_id] = min(left, self._left[cell_id])
        cell.take(step, metrics, self._clock())

    def end(self, cell_id: str) -> None:
        """Take a cell away, whatever became of it: what it has not done will not be waited for."""
        self.ended += 1
        self.total -= self._left[cell_id]
        self._left[cell_id] = 0
        self.running.pop(cell_id, None)

    def seconds_left(self) -> float | None:
        """Estimate the time to the end by the steps taken so far; None before there are any."""
        taken = self.done - self._resumed
        if taken <= 0 or self.ended == self.cells:
            return None
        return self.elapsed / taken * (self.total - self.done)


def speed(per_second: float) -> str:
    """Write a speed with its thousands apart: `1,240`, `8.1`."""
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"


def duration(seconds: float | None) -> str:
    """Write a time as people say it: `45 s`, `7 min`, `3 h 20 min`, `2 d 4 h`; a dash for none."""
    if seconds is None:
        return "–"
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 36:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
