"""Render a page through its templates: one HTML file that opens anywhere, offline, and Markdown.

The HTML inlines its figures, its style and its one script; its content policy forbids every request. Without
scripts it reads as well, unsorted.
"""

import base64
import hashlib
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from alpkit.analysis.report.page import Page
from alpkit.analysis.tables import NOTHING, Table, is_words
from alpkit.analysis.text import without_html

TEMPLATES: Final = Path(__file__).with_name("templates")
LONG: Final = 24
"""Rows from which on a table scrolls in its own frame."""
FILTERED: Final = 12
"""Rows from which on a table can be filtered."""


def html(page: Page) -> str:
    """Render the page as one self-contained HTML file."""
    script = _text("script.js")
    return (
        _environment(page, escaped=True)
        .get_template("page.html.j2")
        .render(
            page=page,
            style=Markup(_text("style.css")),
            colours=Markup(page.colour_rules),
            script=Markup(script),
            policy=Markup(_policy(script)),
            nothing=NOTHING,
            long=LONG,
            filtered=FILTERED,
        )
    )


def markdown(page: Page) -> str:
    """Render the page as text for a repository or a terminal; figures are links to the PNG files beside it."""
    text = _environment(page, escaped=False).get_template("report.md.j2").render(page=page)
    lines: list[str] = []
    for line in text.strip().splitlines():
        # Templates leave more blank lines than Markdown wants.
        if line.strip() or (lines and lines[-1]):
            lines.append(line.rstrip())
    return without_html("\n".join(lines) + "\n")


def slug(title: str) -> str:
    """Make an anchor of a title."""
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def _environment(page: Page, *, escaped: bool) -> Environment:
    # S701 does not apply: HTML is escaped, and Markdown has nothing to escape.
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["slug"] = slug
    found.filters["kind"] = lambda block: type(block).__name__
    found.filters["colour"] = lambda arm: page.colours.get(arm, "var(--soft)")
    found.filters["word_columns"] = _word_columns
    return found


def _word_columns(table: Table) -> list[bool]:
    """Find the columns of a table that hold words."""
    return [is_words(table.shown[name]) for name in table.shown.columns]


def _policy(script: str) -> str:
    """Write a content policy that allows the page's own script and nothing from elsewhere."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
