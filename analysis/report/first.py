"""Compose the report's first screen: claims, the figure, a row per arm with its strips, and what limits them."""

from typing import Final

import numpy as np

from alpkit.analysis.figures import FIGURES
from alpkit.analysis.figures.panels import Looks
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.report.claims import claims, limits, reason
from alpkit.analysis.report.inline_svg import colour_of
from alpkit.analysis.report.page import Cell, First, Row
from alpkit.analysis.report.pictures import picture
from alpkit.analysis.report.results import Results
from alpkit.analysis.tables.overview import Entry, Overview, overview_table, seeds_text
from alpkit.analysis.tables.same_runs import in_short

_WIDTH: Final = 98.0
"""Length of a strip, of 100: the last place's mark needs room."""


def first_screen(frame: GridFrame, results: Results, looks: Looks) -> First:
    """Compose everything that is seen without scrolling."""
    found, finished = results.overview, len(frame.finished) > 0
    hero = next((picture(f, frame) for f in FIGURES if f.section == "Summary"), None)
    told = claims(frame, results.pairs, results.verdicts, results.spikes) if finished else []
    return First(
        reason=reason(frame, results.verdicts),
        same=in_short(results.same),
        told=told,
        hero=hero,
        measures=found.measures,
        rows=_rows(found, results, looks),
        more=f"{len(found.rows)} of {found.arms} arms: the tested and the best; show all"
        if len(found.rows) < found.arms
        else "",
        limits=limits(frame, results.pairs, results.verdicts),
        table=overview_table(found),
    )


def anchor_of(arm: str, control: str) -> str:
    """Give the anchor under which the page compares two arms."""
    return "pair-" + "".join(c if c.isalnum() else "-" for c in f"{arm}-{control}".lower())


def _rows(found: Overview, results: Results, looks: Looks) -> tuple[Row, ...]:
    links = {f.arm: anchor_of(f.arm, f.control) for f in reversed(results.findings)}
    columns = [[row.entries[i] for row in found.rows] for i in range(len(found.measures))]
    rows = []
    for place, row in enumerate(found.rows):
        cells = tuple(_cell(column[place], column) for column in columns)
        colour = colour_of(looks, row.arm)
        rows.append(Row(row.arm, colour, seeds_text(row), links.get(row.arm, ""), cells))
    return tuple(rows)


def _cell(entry: Entry, column: list[Entry]) -> Cell:
    """An entry with its strip, on the axis of its column."""
    interval = entry.interval
    if not np.isfinite(interval.mean):
        return Cell(entry.text, drawn=False)
    if entry.measure.drawn == "bar":
        most = max((e.interval.mean for e in column if np.isfinite(e.interval.mean)), default=0.0)
        return Cell(entry.text, most > 0, bar=_WIDTH * interval.mean / most if most > 0 else 0.0)
    every = [v for e in column for v in (*e.interval.points, e.interval.low, e.interval.high)]
    known = [v for v in every if np.isfinite(v)]
    low, high = min(known), max(known)
    span = high - low
    # Values that differ in their last digits only would look far apart on an axis of their own.
    if span <= 1e-3 * max(abs(low), abs(high)):
        return Cell(entry.text, drawn=False)

    def at(value: float) -> float:
        return round(_WIDTH * (value - low) / span, 1)

    points = tuple(at(v) for v in interval.points)
    return Cell(entry.text, True, low=at(interval.low), high=at(interval.high), points=points)
