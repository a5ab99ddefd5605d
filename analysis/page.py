"""One report, two renderings: Markdown with files beside it, and a self-contained HTML page.

The page inlines its figures and its style, asks the network for nothing, runs no script, and
follows the reader's light or dark setting. Figures keep a white card in both.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import pandas as pd

from analysis.tables import Table


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
    """A drawn figure; `alt` says what is seen, with numbers, to those who cannot see it."""

    name: str
    title: str
    alt: str
    caption: str
    png: bytes


Block = Text | Bullets | Table | Picture


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
        return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"

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
            # An empty icon: without it a browser asks the server for one.
            '<link rel="icon" href="data:,">'
            f"<title>{_e(self.title)}</title><style>{_STYLE}</style></head><body><main>"
            f"<header><h1>{_e(self.title)}</h1>{lead}<dl>{facts}</dl></header>"
            f'<nav aria-label="Sections">{links}</nav>{body}</main></body></html>\n'
        )


def _markdown(block: Block) -> str:
    match block:
        case Text(words, strong):
            return f"**{words}**" if strong else words
        case Bullets(items, _):
            return "\n".join(f"- {item}" for item in items)
        case Table():
            return f"### {block.title}\n\n{block.caption}\n\n{block.markdown()}"
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
        case Picture():
            data = base64.b64encode(block.png).decode()
            # On a phone the card scrolls instead of shrinking its labels past reading.
            least = int.from_bytes(block.png[16:20], "big") * 2 // 5
            return (
                f'<figure id="{_id(block.name)}"><h3>{_e(block.title)}</h3><div class="card" '
                f'tabindex="0" role="region" aria-label="{_e(block.title)}">'
                f'<img style="min-width:{least}px" alt="{_e(block.alt)}" '
                f'src="data:image/png;base64,{data}">'
                f"</div><figcaption>{_e(block.caption)}</figcaption></figure>"
            )
        case _:
            assert_never(block)


def _html_table(table: Table) -> str:
    if table.shown.empty:
        rows = "<p>Nothing to show.</p>"
    else:
        kinds = [_kind(table.shown[name]) for name in table.shown.columns]
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
        # tabindex: a keyboard must be able to scroll a table that is wider than the page.
        rows = (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{_e(table.title)}">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    return f"<h3>{_e(table.title)}</h3>{rows}<p class='caption'>{_e(table.caption)}</p>"


def _kind(column: "pd.Series[str]") -> str:
    """Words align left, numbers right."""
    words = all(str(cell)[:1].isalpha() for cell in column)
    return ' class="text"' if words else ""


def _e(text: str) -> str:
    return html.escape(text, quote=True)


def _id(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


_STYLE: Final = """
:root{color-scheme:light dark;--bg:#fbfbfc;--fg:#1c2127;--soft:#5a6069;--line:#dfe2e7;
--panel:#fff;--link:#1f5fae;--warn:#fff4dc;--warnline:#c98a00}
@media (prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#e4e7eb;--soft:#a2a9b3;--line:#333941;
--panel:#1d2126;--link:#8ab8f5;--warn:#35290c;--warnline:#d9a32e}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:70rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.7rem;margin:.2rem 0;overflow-wrap:anywhere}h2{font-size:1.25rem;margin:2.4rem 0 .6rem;
padding-top:.8rem;border-top:1px solid var(--line)}h3{font-size:1rem;margin:1.6rem 0 .5rem}
p,ul{max-width:46rem}.lead{font-size:1.1rem;color:var(--soft);margin:.2rem 0 1rem}
.strong{font-weight:600}.caption,figcaption{color:var(--soft);font-size:.86rem;max-width:46rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;font-size:.9rem;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:1.2rem 0 0;font-size:.92rem}
a{color:var(--link)}li{margin:.25rem 0}
.warning{background:var(--warn);border-left:4px solid var(--warnline);padding:.6rem 1rem .6rem 2rem;
border-radius:4px}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px;background:var(--panel)}
table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .6rem;text-align:right;white-space:nowrap;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--soft);font-weight:600;vertical-align:bottom}
th:first-child{text-align:left;position:sticky;left:0;background:var(--panel)}
figure{margin:1rem 0}figcaption{margin-top:.6rem}
td.text,th.text{text-align:left}.card{background:#fff;border:1px solid var(--line);border-radius:8px;
padding:.6rem;overflow-x:auto}.card img{display:block;width:100%;height:auto}
@media (max-width:40rem){main{padding:1rem .9rem 3rem}h1{font-size:1.4rem}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.4rem}th,td{padding:.35rem .5rem}}
@media print{nav{display:none}.card,.scroll{overflow:visible}.card img{min-width:0!important}}
"""
