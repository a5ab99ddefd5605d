"""Records of the arms, pooled, at the levels that figures of the ratio's tails draw."""

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
    """Yield arm, level and pool of everything that figures show."""
    for arm in frame.arms:
        for level in DRAWN:
            if level in frame.pooled[arm].levels:
                yield arm, level, frame.pooled[arm].levels[level]


def joined(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Join the rows of `parts`, with these columns even where no part has a row."""
    full = [part[columns] for part in parts if len(part)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=columns)
