"""Lay tables out in the width that there is: no word is broken, no number is cut.

What does not fit beside the first column goes into a second table below; columns marked `extra` are left out
instead, and named. Text columns wrap at words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_GAP: Final = 2


class Column(NamedTuple):
    """A column: `text` wraps at words, `right` aligns numbers, `extra` may be left out."""

    title: str
    text: bool = False
    comfort: int = 24
    """Columns of the terminal that a text gets before another column may stand beside it."""
    right: bool = False
    extra: bool = False


@dataclass(frozen=True)
class TextTable:
    """Rows of text under columns, the first of which names the row."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    title: str = ""
    styles: Mapping[str, str] = field(default_factory=dict)
    """A row's first text -> its colour, where there is a terminal."""


class Fitted(NamedTuple):
    """Tables to print one below the other, and the titles of columns that are in none."""

    tables: list[Table]
    left_out: list[str]


def plain(columns: Sequence[str], rows: Sequence[Sequence[str]], *text: str) -> TextTable:
    """Make a table of titles and rows; columns named in `text` wrap at words."""
    return TextTable([Column(title, text=title in text) for title in columns], rows)


def fitted(table: TextTable, width: int) -> Fitted:
    """Arrange a table in `width` columns of a terminal."""
    needs = [_need(table, i) for i in range(len(table.columns))]
    blocks, left_out = _blocks(table.columns, needs, width)
    tables = []
    for number, block in enumerate(blocks):
        chosen = [0, *block]
        widths = _widths(table, chosen, needs, width)
        tables.append(_drawn(table, chosen, widths, "" if number else table.title))
    return Fitted(tables, [table.columns[i].title for i in left_out])


def _blocks(
    columns: Sequence[Column], needs: Sequence[int], width: int
) -> tuple[list[list[int]], list[int]]:
    """Share the columns behind the first among tables; give them, and the columns without a place."""
    blocks: list[list[int]] = [[]]
    left_out = []
    room = width - needs[0]
    for i in range(1, len(columns)):
        if needs[i] + _GAP > room and blocks[-1]:
            if columns[i].extra:
                left_out.append(i)
                continue
            blocks.append([])
            room = width - needs[0]
        blocks[-1].append(i)
        room -= needs[i] + _GAP
    return blocks, left_out


def _need(table: TextTable, index: int) -> int:
    """Columns of the terminal that one column takes at least."""
    column = table.columns[index]
    cells = _cells(table, index)
    title = max((cell_len(word) for word in column.title.split()), default=0)
    whole = max([*map(cell_len, cells), title])
    if not column.text:
        return whole
    longest = max([cell_len(word) for cell in cells for word in cell.split()], default=0)
    return max(longest, title, min(whole, column.comfort))


def _widths(table: TextTable, chosen: Sequence[int], needs: Sequence[int], width: int) -> list[int]:
    """Share the terminal's columns among a block's: each gets its need, then what it would like, texts last."""
    widths = {i: needs[i] for i in chosen}
    gaps = _GAP * (len(chosen) - 1)
    # A first column that leaves no room for a second one wraps, within words where it must.
    over = sum(widths.values()) + gaps - width
    if over > 0:
        widths[chosen[0]] = max(widths[chosen[0]] - over, 8)
    room = width - gaps - sum(widths.values())
    for i in sorted(chosen, key=lambda i: table.columns[i].text):
        whole = max(cell_len(text) for text in (table.columns[i].title, *_cells(table, i)))
        more = max(0, min(room, whole - widths[i]))
        widths[i] += more
        room -= more
    return [widths[i] for i in chosen]


def _cells(table: TextTable, index: int) -> list[str]:
    return [row[index] for row in table.rows]


def _drawn(table: TextTable, chosen: Sequence[int], widths: Sequence[int], title: str) -> Table:
    drawn = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
    )
    for i, width in zip(chosen, widths, strict=True):
        column = table.columns[i]
        justify: Literal["left", "right"] = "right" if column.right else "left"
        drawn.add_column(column.title, justify=justify, overflow="fold", width=width)
    for row in table.rows:
        first = Text(row[0], style=table.styles.get(row[0], ""))
        drawn.add_row(first, *(Text(row[i]) for i in chosen[1:]))
    return drawn
