"""Draw figures for a page and for its folder: inline SVG, and files as PNG, SVG and PDF.

One drawing gives all of them. `single_column` sets the same panels one under the other for a paper's column.
"""

import io
import math
import textwrap
from typing import Final

import matplotlib
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from alpkit.analysis.figures import style
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.report.inline_svg import inline
from alpkit.analysis.report.layout import settled
from alpkit.analysis.report.page import Picture, Text

COLUMN_WIDTH: Final = 3.4
"""Inches of a column of a two-column paper."""
_PANEL_HEIGHT: Final = 2.1


def picture(figure: ReportFigure, frame: GridFrame) -> Picture | Text:
    """Draw a figure of this grid; words instead where there is nothing to draw."""
    numbers = figure.numbers(frame)
    if numbers.empty:
        return Text(f"{figure.title}: not drawn, {figure.absent}")
    looks = style.looks(frame.cells)
    # Text as text: a tenth of the size of drawn letters, and the reader's own fonts.
    with style.context(), matplotlib.rc_context({"svg.fonttype": "none"}):
        sheet = figure.sheet(numbers, looks)
        alt = figure.alt(frame, numbers)
        with settled(sheet):
            files = {ending: _saved(sheet, ending) for ending in ("png", "svg", "pdf")}
            drawing = inline(files["svg"].decode(), figure.name, sheet, looks, alt=alt)
        if (column := single_column(sheet)) is not None:
            with settled(column):
                files["column.pdf"] = _saved(column, "pdf")
    return Picture(
        name=figure.name,
        title=figure.title,
        alt=alt,
        caption=figure.caption,
        data=numbers,
        drawing=drawing,
        files={f".{ending}": content for ending, content in files.items()},
    )


def single_column(sheet: Figure) -> Figure | None:
    """Set the panels of a drawn sheet anew for one column; None where they cannot be: the same sheet, changed."""
    panels = [axes for axes in sheet.axes if axes.get_visible() and axes.get_subplotspec()]
    if len(panels) != sum(axes.get_visible() for axes in sheet.axes):
        return None  # a colour bar has no place of its own in a grid
    across = 2 if len(panels) > 4 else 1
    rows = math.ceil(len(panels) / across)
    height = _PANEL_HEIGHT * (0.8 if across == 2 else 1.0)
    entries = max((len(legend.get_texts()) for legend in sheet.legends), default=0)
    sheet.set_size_inches(COLUMN_WIDTH, height * rows + 0.16 * math.ceil(entries / 2) + 0.1)
    grid = GridSpec(rows, across, figure=sheet)
    for place, axes in enumerate(panels):
        axes.set_subplotspec(grid[place // across, place % across])
        axes.tick_params(labelleft=True, labelbottom=True, labelsize=6)
        # Two panels side by side leave a title some 17 letters.
        title = textwrap.fill(axes.get_title(loc="left"), 34 // across)
        axes.set_title(title, loc="left", fontsize=7)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_fontsize(6.5)
    for legend in list(sheet.legends):
        labels = [text.get_text() for text in legend.get_texts()]
        handles = [handle for handle in legend.legend_handles if handle is not None]
        legend.remove()  # its columns are what it was made with
        sheet.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=6.5)
    return sheet


def _saved(sheet: Figure, ending: str) -> bytes:
    """Save the sheet; the file holds no date, so that equal data gives an equal file."""
    content = io.BytesIO()
    dates: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    sheet.savefig(content, format=ending, metadata=dates.get(ending))
    return content.getvalue()
