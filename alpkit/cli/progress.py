"""Show a running grid: one bar and a line per active cell, or plain lines without a terminal."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alpkit.cli.board import HEADLINE, Board, Running, duration, speed
from alpkit.config import Cell
from alpkit.launch import Ended, Event, Started, Stepped

_EVERY: Final = 30.0
"""Seconds between two lines about all cells, where there is no terminal; a thirtieth of the run later on."""
_LONGEST: Final = 600.0
_PER_SECOND: Final = 4


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
    """Choose the live display or plain lines for the launch of `cells`."""
    return Lines(cells, console) if plain else Display(cells, console)


class _Listener:
    """Keeps a board of the launch; `cells` by id."""

    def __init__(self, cells: Mapping[str, Cell], console: Console) -> None:
        self._cells, self._console = cells, console
        self.board = Board({c.cell_id: c.config.train.steps for c in cells.values()})

    def _note(self, event: Event) -> Cell:
        cell = self._cells[event.cell_id]
        match event:
            case Started():
                self.board.start(cell.cell_id, _name(cell), cell.config.train.steps)
            case Stepped():
                self.board.step(cell.cell_id, event.step, event.metrics)
            case Ended():
                self.board.end(cell.cell_id)
        return cell

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Lines(_Listener):
    """Plain lines that a log can hold: every start and end, and how far all of it is every half minute."""

    def __init__(
        self, cells: Mapping[str, Cell], console: Console, *, every: float = _EVERY
    ) -> None:
        super().__init__(cells, console)
        self._every, self._said = every, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, event: Event) -> None:
        running = self.board.running.get(event.cell_id)
        cell = self._note(event)
        match event:
            case Started():
                self._say(f"{'started':<10}{cell.cell_id} {_name(cell)}")
            case Stepped():
                self._say_how_far()
            case Ended():
                told = [f"({self.board.ended}/{self.board.cells})"]
                told += [running.headline()] if running and event.state == "finished" else []
                told += [f"ETA {duration(left)}"] if (left := self.board.seconds_left()) else []
                text = "  ".join(part for part in told if part)
                self._say(
                    f"{event.state:<10}{cell.cell_id} {_name(cell)} {text}{_first(event.error)}"
                )

    def _say_how_far(self) -> None:
        board = self.board
        if board.elapsed - self._said < min(max(self._every, board.elapsed / 30), _LONGEST):
            return
        self._said = board.elapsed
        active = "; ".join(
            f"{cell.name} {cell.step}/{cell.steps}  {cell.headline()}".rstrip()
            for cell in board.running.values()
        )
        self._say(f"{time.strftime('%H:%M:%S')}  {_summary(board)}  {active}")


class Display(_Listener):
    """A live display: the grid's steps with the time that is left, and a line for each active cell."""

    def __init__(self, cells: Mapping[str, Cell], console: Console) -> None:
        super().__init__(cells, console)
        self._live = Live(self, console=console, refresh_per_second=_PER_SECOND, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        cell = self._note(event)
        if isinstance(event, Ended) and event.state != "finished":
            self._say(f"{event.state}: {cell.cell_id} {_name(cell)}{_first(event.error)}")

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        yield _whole(self.board)
        if self.board.running:
            yield cell_lines(list(self.board.running.values()), options.max_width)


def _whole(board: Board) -> Table:
    table = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(board.total, 1), completed=board.done, width=20)
    table.add_row(bar, Text(_summary(board), no_wrap=True))
    return table


def _summary(board: Board) -> str:
    text = f"{board.done}/{board.total} steps  {board.ended}/{board.cells} cells"
    left = board.seconds_left()
    return f"{text}  {duration(board.elapsed)}" + (f"  ETA {duration(left)}" if left else "")


def cell_lines(cells: list[Running], width: int) -> Table:
    """Lay out a line per running cell in `width` columns: the name may be cut, the numbers are not."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=width < 100)
    table.add_column("running", no_wrap=True, overflow="ellipsis", ratio=1, min_width=12)
    names = [name for _, name in HEADLINE]
    for name in ("step", *names, "tok/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        numbers = [
            f"{cell.metrics[key]:.3g}" if key in cell.metrics else "–" for key, _ in HEADLINE
        ]
        pace = "–" if cell.tokens_per_second is None else speed(cell.tokens_per_second)
        table.add_row(cell.name, f"{cell.step}/{cell.steps}", *numbers, pace)
    return table


def _name(cell: Cell) -> str:
    return f"{cell.arm} seed={cell.seed}"


def _first(error: str | None) -> str:
    return f": {error.splitlines()[0]}" if error else ""
