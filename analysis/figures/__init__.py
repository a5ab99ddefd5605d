"""Figures of the report, one file each: its numbers (the CSV), its drawing, its alt text, its caption.

A figure is a module here with one `FIGURE`, and its name in `_MODULES`. Shared by them: `spec` (what a
figure is), `over_steps` and `pools` (numbers), `panels` and `style` (drawing).

    from alpkit.analysis.figures import draw
    draw("ccdf", analysis.load("latest"))
"""

from importlib import import_module
from typing import Final

from matplotlib.figure import Figure

from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.figures.style import context, looks
from alpkit.analysis.frames import GridFrame
from alpkit.errors import GridError

# In reading order: the report shows them so within each of its sections.
_MODULES: Final = (
    "summary",
    "dynamics",
    "passk",
    "envelope",
    "ccdf",
    "hill",
    "qq",
    "khat",
    "factors",
    "turns",
    "by_turn",
    "removed",
    "sigma",
    "layers_intervals",
    "sites_intervals",
    "score",
)
FIGURES: Final[tuple[ReportFigure, ...]] = tuple(
    import_module(f"{__name__}.{module}").FIGURE for module in _MODULES
)


def draw(name: str, frame: GridFrame) -> Figure:
    """Draw one figure of the report in the report's style.

    Raises `GridError` for a name that is no figure, and where the grid has nothing to draw.
    """
    figure = next((each for each in FIGURES if each.name == name), None)
    if figure is None:
        raise GridError(
            f"no figure is called {name!r}",
            where=frame.grid.name,
            why="a figure is drawn by the name of its files in the report",
            fix=f"use one of: {', '.join(each.name for each in FIGURES)}",
        )
    numbers = figure.numbers(frame)
    if numbers.empty:
        raise GridError(
            f"the figure {name} cannot be drawn",
            where=frame.grid.name,
            why=figure.absent,
            fix="draw another figure, or load a grid that logged what this one shows",
        )
    with context():
        return figure.sheet(numbers, looks(frame.cells))
