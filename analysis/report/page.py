"""One report, two renderings: Markdown with files beside it, and a self-contained HTML page.

The page inlines its figures and its style, asks the network for nothing (its content policy forbids
it), and follows the reader's light or dark setting; figures keep a white card in both. Its one script
sorts tables; without it they still read.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never

import pandas as pd

from alpkit.analysis.report.template import POLICY, SCRIPT, STYLE
from alpkit.analysis.tables import NOTHING, Table, is_words
from alpkit.analysis.text import without_html

LONG: Final = 24
"""Rows from which on a table scrolls in its own frame."""


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
    png: bytes
    svg: bytes


class Answer(NamedTuple):
    """What was asked, the answer in a word or three, and its numbers in a sentence."""

    question: str
    state: str
    words: str


@dataclass(frozen=True)
class Answers:
    """A headed list of answers, and what limits all of them."""

    title: str
    note: str
    items: Sequence[Answer]
    limits: Sequence[str]


Block = Text | Bullets | Table | Picture | Answers


@dataclass(frozen=True)
class Section:
    """A headed part of the report."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """The whole report before it is rendered."""

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]

    def markdown(self) -> str:
        """Text for a repository or a terminal; figures are links to the PNG files beside it."""
        parts = [f"# {self.title}", self.lead]
        parts.append("\n".join(f"- {name}: {value}" for name, value in self.facts))
        for section in self.sections:
            parts.append(f"## {section.title}")
            parts += [_markdown(block) for block in section.blocks]
        text = "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
        return without_html(text)

    def html(self) -> str:
        """One file that opens anywhere, offline."""
        facts = "".join(f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>" for name, value in self.facts)
        links = "".join(f'<a href="#{_id(s.title)}">{_e(s.title)}</a>' for s in self.sections)
        body = "".join(
            f'<section id="{_id(s.title)}"><h2>{_e(s.title)}</h2>'
            + "".join(_html(block) for block in s.blocks)
            + "</section>"
            for s in self.sections
        )
        lead = f'<p class="lead">{_e(self.lead)}</p>' if self.lead else ""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            # An empty icon: without it a browser asks the server for one.
            '<link rel="icon" href="data:,">'
            f"<title>{_e(self.title)}</title><style>{STYLE}</style></head><body><main>"
            f"<header><h1>{_e(self.title)}</h1>{lead}<dl>{facts}</dl></header>"
            f'<nav aria-label="Sections">{links}</nav>{body}</main>'
            f"<script>{SCRIPT}</script></body></html>\n"
        )


def _markdown(block: Block) -> str:
    match block:
        case Text(words, strong):
            return f"**{words}**" if strong else words
        case Bullets(items, _):
            return "\n".join(f"- {item}" for item in items)
        case Table():
            return f"### {block.title}\n\n{block.caption}\n\n{block.markdown()}"
        case Answers(title, note, answers, limits):
            lines = [f"- {a.question}: **{a.state}**. {a.words}" for a in answers]
            lines += [f"- {limit}" for limit in limits]
            return "\n\n".join(part for part in (f"### {title}", note, "\n".join(lines)) if part)
        case Picture():
            return f"### {block.title}\n\n![{block.alt}]({block.name}.png)\n\n{block.caption}"
        case _:
            assert_never(block)


def _html(block: Block) -> str:
    match block:
        case Text(words, strong):
            return f'<p class="strong">{_e(words)}</p>' if strong else f"<p>{_e(words)}</p>"
        case Bullets(items, warning):
            kind = ' class="warning"' if warning else ""
            return f"<ul{kind}>" + "".join(f"<li>{_e(item)}</li>" for item in items) + "</ul>"
        case Table():
            return _html_table(block)
        case Answers(title, note, answers, limits):
            return _html_answers(title, note, answers, limits)
        case Picture():
            data = base64.b64encode(block.png).decode()
            # On a phone the card scrolls instead of shrinking its labels past reading, and a small
            # figure is not blown up.
            pixels = int.from_bytes(block.png[16:20], "big")
            least, most = pixels * 2 // 5, pixels * 7 // 10
            return (
                f'<figure id="{_id(block.name)}"><h3>{_e(block.title)}</h3><div class="card" '
                f'tabindex="0" role="region" aria-label="{_e(block.title)}">'
                f'<img style="min-width:{least}px;max-width:{most}px" alt="{_e(block.alt)}" '
                f'src="data:image/png;base64,{data}">'
                f"</div><figcaption>{_e(block.caption)}</figcaption></figure>"
            )
        case _:
            assert_never(block)


def _html_answers(title: str, note: str, answers: Sequence[Answer], limits: Sequence[str]) -> str:
    items = "".join(
        f'<li><p><strong>{_e(a.question)}</strong> <span class="tag {_id(a.state)}">'
        f"{_e(a.state)}</span></p><p>{_e(a.words)}</p></li>"
        for a in answers
    )
    below = "".join(f"<li>{_e(limit)}</li>" for limit in limits)
    return (
        f"<h3>{_e(title)}</h3>"
        + (f'<p class="caption">{_e(note)}</p>' if note else "")
        + f'<ul class="answers">{items}</ul>'
        + (f'<ul class="limits">{below}</ul>' if limits else "")
    )


def _html_table(table: Table) -> str:
    if table.shown.empty:
        rows = f"<p>{NOTHING}</p>"
    else:
        words = (is_words(table.shown[name]) for name in table.shown.columns)
        kinds = [' class="text"' if word else "" for word in words]
        head = "".join(
            f'<th scope="col"{kind}>{_e(str(name))}</th>'
            for name, kind in zip(table.shown.columns, kinds)
        )
        body = "".join(
            f'<tr><th scope="row">{_e(str(row[0]))}</th>'
            + "".join(f"<td{kind}>{_e(str(c))}</td>" for c, kind in zip(row[1:], kinds[1:]))
            + "</tr>"
            for row in table.shown.to_numpy()
        )
        long = " long" if len(table.shown) > LONG else ""
        # tabindex: a keyboard must be able to scroll a table that is wider than the page.
        rows = (
            f'<div class="scroll{long}" tabindex="0" role="region" aria-label="{_e(table.title)}">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    return f"<h3>{_e(table.title)}</h3>{rows}<p class='caption'>{_e(table.caption)}</p>"


def _e(text: str) -> str:
    return html.escape(text, quote=True)


def _id(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())
