"""Show a running grid: one bar and a line per active cell, or plain lines without a terminal."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from alpkit.config import Cell
from alpkit.launch import Ended, Event, Started, Stepped

# Headline metrics of a line, and what they are called there.
HEADLINE = (("reward/mean", "reward"), ("kl/k3", "kl"), ("ratio/raw/token/width", "width"))
_LINE_SECONDS = 5.0


class Screen(Protocol):
    """Listens to a launch; a context manager around it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def __call__(self, event: Event) -> None: ...


def screen(cells: Mapping[str, Cell], console: Console, *, plain: bool) -> Screen:
    """Choose bars or plain lines for the launch of `cells`."""
    return Lines(cells, console) if plain else Bars(cells, console)


class Lines:
    """Plain lines: starts and ends always, steps every five seconds per cell."""

    def __init__(self, cells: Mapping[str, Cell], console: Console) -> None:
        self._cells, self._console = cells, console
        self._said: dict[str, float] = {}
        self._ended = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, event: Event) -> None:
        cell = self._cells[event.cell_id]
        name = f"{cell.cell_id} {cell.arm} seed={cell.seed}"
        match event:
            case Started():
                self._say(f"{'started':<14}{name}")
            case Stepped():
                if time.monotonic() - self._said.get(event.cell_id, 0.0) > _LINE_SECONDS:
                    self._said[event.cell_id] = time.monotonic()
                    steps = f"step {event.step}/{cell.config.train.steps}"
                    self._say(f"{steps:<14}{name}  {headline(event.metrics)}")
            case Ended():
                self._ended += 1
                count = f"({self._ended}/{len(self._cells)})"
                self._say(f"{event.state:<14}{name} {count}{_first(event.error)}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """A Rich display: the grid's steps with their ETA, and a line for each active cell."""

    def __init__(self, cells: Mapping[str, Cell], console: Console) -> None:
        self._cells = cells
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[headline]}"),
            console=console,
        )
        self._left = {c.cell_id: c.config.train.steps for c in cells.values()}
        self._grid = self._progress.add_task(
            "all cells, in steps", total=sum(self._left.values()), headline=""
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        cell, progress = self._cells[event.cell_id], self._progress
        steps = cell.config.train.steps
        match event:
            case Started():
                self._tasks[event.cell_id] = progress.add_task(
                    f"{cell.arm} seed={cell.seed}", total=steps, headline=""
                )
            case Stepped():
                progress.update(
                    self._tasks[event.cell_id],
                    completed=event.step,
                    headline=headline(event.metrics),
                )
                self._advance(event.cell_id, steps - event.step)
            case Ended():
                progress.remove_task(self._tasks.pop(event.cell_id))
                self._advance(event.cell_id, 0)
                if event.state != "finished":
                    name = f"{cell.cell_id} {cell.arm} seed={cell.seed}"
                    progress.console.print(
                        f"{event.state}: {name}{_first(event.error)}", markup=False
                    )

    def _advance(self, cell_id: str, left: int) -> None:
        self._progress.advance(self._grid, max(0, self._left[cell_id] - left))
        self._left[cell_id] = min(left, self._left[cell_id])


def headline(metrics: Mapping[str, float]) -> str:
    """Format a step's headline metrics, those that it has: `reward 0.512  kl 0.0031  width 0.42`."""
    return "  ".join(f"{name} {metrics[key]:.3g}" for key, name in HEADLINE if key in metrics)


def _first(error: str | None) -> str:
    return f": {error.splitlines()[0]}" if error else ""
