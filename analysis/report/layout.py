"""A sheet's layout, found once for all its files: margins for what stands around each panel, and its ticks.

matplotlib's constrained layout measures every panel twice, and each save looks for the ticks again: that
was half of the time of `alpkit analyze`. A sheet here is a plain grid of panels, so one measure will do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator

PAD: Final = (0.07, 0.09)
"""Inches left free beside and above each panel with its labels."""


@contextmanager
def settled(sheet: Figure) -> Iterator[None]:
    """Lay the sheet out, and keep its ticks inside the block as they were measured."""
    panels = [axes for axes in sheet.axes if axes.get_visible()]
    renderer = FigureCanvasAgg(sheet).get_renderer()
    engine = sheet.get_layout_engine()
    plain = all(axes.get_subplotspec() for axes in panels)
    # A figure with any engine, a placeholder too, is drawn twice per save; a save brings the style's back.
    with matplotlib.rc_context({"figure.constrained_layout.use": False}):
        if engine is not None and not plain:
            engine.execute(sheet)  # a colour bar has no place of its own in the grid
        sheet.set_layout_engine(None)
        with _fixed_ticks(panels):
            if plain:
                _place(sheet, panels, renderer)
            yield


def _place(sheet: Figure, panels: list[Axes], renderer: RendererAgg) -> None:
    """Give every panel of a row one height, of a column one width, and room for its labels."""
    size = sheet.get_size_inches()
    specs = [(axes, spec) for axes in panels if (spec := axes.get_subplotspec())]
    spots = [(axes, spec.rowspan.start, spec.colspan.start) for axes, spec in specs]
    rows, columns, *_ = specs[0][1].get_geometry()
    left, right = np.zeros(columns), np.zeros(columns)
    below, above = np.zeros(rows), np.zeros(rows)
    for axes, row, column in spots:
        inner = axes.get_window_extent()
        outer = axes.get_tightbbox(renderer, for_layout_only=True)
        if outer is None:  # an axes that is drawn nowhere needs no room
            continue
        left[column] = max(left[column], inner.x0 - outer.x0)
        right[column] = max(right[column], outer.x1 - inner.x1)
        below[row] = max(below[row], inner.y0 - outer.y0)
        above[row] = max(above[row], outer.y1 - inner.y1)
    # From pixels to inches.
    left, right, below, above = (
        margin / sheet.dpi + pad
        for margin, pad in zip((left, right, below, above), (PAD[0], PAD[0], PAD[1], PAD[1]))
    )
    foot = max((x.get_window_extent(renderer).height / sheet.dpi for x in sheet.legends), default=0)
    width = (size[0] - (left + right).sum()) / columns
    height = (size[1] - foot - (below + above).sum()) / rows
    for axes, row, column in spots:
        x = (left + right)[:column].sum() + left[column] + column * width
        top = size[1] - (above + below)[:row].sum() - above[row] - row * height
        axes.set_position(
            (x / size[0], (top - height) / size[1], width / size[0], height / size[1])
        )


@contextmanager
def _fixed_ticks(panels: list[Axes]) -> Iterator[None]:
    """Keep the ticks that each axis has now; their rules come back with the end of the block."""
    kept = []
    for axis in (axis for axes in panels for axis in (axes.xaxis, axes.yaxis)):
        locator, formatter = axis.get_major_locator(), axis.get_major_formatter()
        places = axis.get_majorticklocs().tolist()
        words = FixedFormatter(formatter.format_ticks(places))
        words.set_offset_string(formatter.get_offset())
        kept.append((axis, locator, formatter))
        axis.set_major_locator(FixedLocator(places))
        axis.set_major_formatter(words)
    yield
    # Backwards: axes that share their ticks share one rule, and the first of them saw it.
    for axis, locator, formatter in reversed(kept):
        axis.set_major_locator(locator)
        axis.set_major_formatter(formatter)
