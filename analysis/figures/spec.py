"""The parts of a figure of the report, before it is drawn: its numbers, its drawing and its words."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from alpkit.analysis.figures.panels import Looks
from alpkit.analysis.frames import GridFrame

Place = Literal[
    "Summary",
    "Results",
    "The ratio",
    "Turns",
    "Corrections",
    "Noise",
    "Layers and sites",
    "All cells",
]
"""Sections of the report that show figures."""


class ReportFigure(NamedTuple):
    """One figure: everything that is drawn is in its `numbers`, which are its CSV."""

    name: str
    """What its files are called."""
    section: Place
    title: str
    numbers: Callable[[GridFrame], pd.DataFrame]
    sheet: Callable[[pd.DataFrame, Looks], Figure]
    alt: Callable[[GridFrame, pd.DataFrame], str]
    """What is seen, in words with numbers, for those who cannot see it; written from the numbers."""
    caption: str
    absent: str
    """Why there is no figure where its numbers are empty; follows the title and a colon."""


def range_text(values: "pd.Series[float]") -> str:
    """Write the lowest and the highest of some numbers, as alt texts say it."""
    values = values.dropna()
    return f"{values.min():.3f} to {values.max():.3f}" if len(values) else "none"
