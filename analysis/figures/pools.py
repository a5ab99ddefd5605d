"""What figures of the ratio's tails share: the arms' pooled records at the levels that are drawn."""

from collections.abc import Iterator
from typing import Final

import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading.pooled import Pool

DRAWN: Final = ("token", "product")
"""Levels that figures show; the tables have all three."""
NO_RECORDS: Final = "no finished cell has token records to draw it from."
"""Why a figure of the records is absent."""


def pools(frame: GridFrame) -> Iterator[tuple[str, str, Pool]]:
    """Arm, level and pool of everything that figures show."""
    for arm in frame.arms:
        for level in DRAWN:
            if level in frame.pooled[arm].levels:
                yield arm, level, frame.pooled[arm].levels[level]


def joined(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """All rows of `parts` with these columns, which are there even where no part is."""
    full = [part[columns] for part in parts if len(part)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=columns)
