"""Figures drawn for a page: as PNG for reading, as SVG for printing, in words for those who cannot see."""

import io

import matplotlib

from alpkit.analysis.figures import style
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.report.page import Picture, Text


def picture(figure: ReportFigure, frame: GridFrame) -> Picture | Text:
    """Draw a figure of this grid; words instead where there is nothing to draw."""
    numbers = figure.numbers(frame)
    if numbers.empty:
        return Text(f"{figure.title}: not drawn, {figure.absent}")
    png, svg = io.BytesIO(), io.BytesIO()
    with style.context():
        sheet = figure.sheet(numbers, style.looks(frame.cells))
        # Once, and not at every save: finding the layout costs as much as drawing.
        if (layout := sheet.get_layout_engine()) is not None:
            layout.execute(sheet)
        # A figure with any engine is drawn twice per save, and a save brings the style's back.
        with matplotlib.rc_context({"figure.constrained_layout.use": False}):
            sheet.set_layout_engine(None)
            sheet.savefig(png, format="png")
            # Without a date the same data gives the same file.
            sheet.savefig(svg, format="svg", metadata={"Date": None})
    return Picture(
        name=figure.name,
        title=figure.title,
        alt=figure.alt(frame, numbers),
        caption=figure.caption,
        data=numbers,
        png=png.getvalue(),
        svg=svg.getvalue(),
    )
