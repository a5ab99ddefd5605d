"""CSV files that a spreadsheet may open: no cell of text is taken for a formula."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pandas as pd

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def write_csv(frame: "pd.DataFrame", path: Path) -> None:
    """Write a frame; texts that a spreadsheet would run begin with an apostrophe."""
    safe = frame.rename(columns=neutral)
    for place in range(safe.shape[1]):
        column = safe.iloc[:, place]
        if column.dtype.kind not in "biufcmM":
            safe.isetitem(place, [neutral(value) for value in column])
    safe.to_csv(path, index=False)


def neutral(value: object) -> object:
    """Give a value as it is, but for a text that begins like a formula and is no number."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
