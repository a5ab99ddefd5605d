"""Parts of a report before it is rendered: its first screen, then folded sections of blocks.

Two renderings, both from template files (`templates/`): a self-contained HTML page and Markdown with files
beside it. What goes where is `alpkit.analysis.report.compose`; how it is rendered, `rendering`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from alpkit.analysis.report.claims import Told
from alpkit.analysis.report.inline_svg import Drawing
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.overview import Measure


@dataclass(frozen=True)
class Text:
    """A paragraph; `strong` sets it off."""

    words: str
    strong: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences; `warning` sets it off."""

    items: Sequence[str]
    warning: bool = False


@dataclass(frozen=True)
class Picture:
    """A drawn figure and its numbers; `alt` says what is seen to those who cannot see it."""

    name: str
    title: str
    alt: str
    caption: str
    data: pd.DataFrame
    drawing: Drawing
    files: dict[str, bytes]
    """Ending (`.png`) -> content."""


class Answer(NamedTuple):
    """A question, its answer in a few words, and its numbers in a sentence."""

    question: str
    state: str
    words: str


@dataclass(frozen=True)
class Answers:
    """A list of answers, and what limits all of them."""

    note: str
    items: Sequence[Answer]
    limits: Sequence[str]


@dataclass(frozen=True)
class Fold:
    """Blocks behind a headline that opens them; `anchor` is where links lead."""

    title: str
    anchor: str
    blocks: "Sequence[Block]"
    gist: str = ""


Block = Text | Bullets | Table | Picture | Answers | Fold


@dataclass(frozen=True)
class Section:
    """A headed part of the report; `gist` stands beside its title while it is closed."""

    title: str
    blocks: Sequence[Block]
    gist: str = ""


class Cell(NamedTuple):
    """An entry of the first screen's table; places on its strip run from 0 to 100."""

    text: str
    drawn: bool
    bar: float | None = None
    low: float = 0.0
    high: float = 0.0
    points: tuple[float, ...] = ()


class Row(NamedTuple):
    """An arm on the first screen; `link` is the anchor of its comparison."""

    arm: str
    colour: str
    seeds: str
    link: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class First:
    """The first screen."""

    reason: str = ""
    same: Sequence[str] = ()
    told: Sequence[Told] = ()
    hero: Picture | Text | None = None
    measures: Sequence[Measure] = ()
    rows: Sequence[Row] = ()
    more: str = ""
    limits: Sequence[str] = ()
    table: Table | None = None


@dataclass(frozen=True)
class Page:
    """The whole report before it is rendered; `colours`: arm -> its colour in the style's terms."""

    title: str
    lead: str
    first: First
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]] = ()
    colours: dict[str, str] = field(default_factory=dict)
    colour_rules: str = ""
