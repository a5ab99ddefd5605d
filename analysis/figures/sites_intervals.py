"""Sites: arms that differ in the noise's site alone, with their intervals over seeds."""

from typing import Final

import pandas as pd

from alpkit.analysis.figures.intervals import alt, setting_numbers, sheet
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.frames import GridFrame


def numbers(frame: GridFrame) -> pd.DataFrame:
    """`setting_numbers` by site."""
    return setting_numbers(frame, "site")


FIGURE: Final = ReportFigure(
    name="sites_intervals",
    section="Layers and sites",
    title="Sites",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        "Arms that differ in the noise's site alone. Point: mean over finished seeds; bar: 95 % t interval "
        "from three seeds on, range below. Shaded: their control without noise."
    ),
    absent="no two arms differ in the noise's site alone.",
)
