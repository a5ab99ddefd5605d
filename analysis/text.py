"""Write values as text: numbers, intervals and dashes in tables, plain types in JSON."""

import math
import re
from typing import Final

import numpy as np
import pandas as pd

from alpkit.analysis.seeds.verdicts import Interval

DASH: Final = "–"
SIGNIFICANT: Final = 3
"""Digits that a number keeps: more is noise to a reader."""


def number(value: float, digits: int) -> str:
    """Write a number with fixed digits, three significant ones at most; NaN is a dash.

    Scientific where fixed digits would show nothing.
    """
    if not np.isfinite(value):
        return DASH
    if value != 0 and (abs(value) < 0.5 * 10.0**-digits or abs(value) >= 1e5):
        return f"{value:.1e}"
    if value == 0:
        return f"{value:.{digits}f}"
    before = math.floor(math.log10(abs(value))) + 1
    if before > SIGNIFICANT:
        return f"{float(f'{value:.{SIGNIFICANT}g}'):.0f}"
    return f"{value:.{min(digits, SIGNIFICANT - before)}f}"


def brief(value: float, *, signed: bool = False) -> str:
    """Write three significant digits and no more: `0.0366`, `12.4`, `1,240`; a dash for NaN."""
    if not np.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    sign = "+" if signed else ""
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:{sign}.2e}"
    rounded = float(f"{value:.{SIGNIFICANT}g}")
    before = math.floor(math.log10(abs(rounded))) + 1
    return f"{rounded:{sign},.{max(0, SIGNIFICANT - before)}f}"


def with_bounds(value: float, low: float, high: float, digits: int) -> str:
    """Write a value with its bounds, `0.41 [0.32, 0.50]`; a dash for NaN.

    A bound near 0 is written as 0, unless all three are tiny.
    """
    if not np.isfinite(value):
        return DASH
    step = 0.5 * 10.0**-digits
    if max(abs(value), abs(low), abs(high)) >= step:
        low, high = (0.0 if abs(bound) < step else bound for bound in (low, high))
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def interval_text(interval: Interval, digits: int) -> str:
    """Write a mean over seeds: with its interval from three seeds on, as from-to with two, alone with one."""
    match interval.kind:
        case "none":
            return DASH
        case "t":
            return with_bounds(interval.mean, interval.low, interval.high, digits)
        case "single":
            return number(interval.mean, digits)
        case "range":
            # The two points are the range's ends; figures draw them.
            return f"{number(interval.low, digits)} to {number(interval.high, digits)}"


def signed_points(points: tuple[float, ...]) -> str:
    """Write differences seed by seed: `+0.1 · -0.02`."""
    return " · ".join(f"{p:+.3g}" for p in points) if points else DASH


def first_line(text: str) -> str:
    """Give the first line of an error's text, without its traceback."""
    return text.strip().splitlines()[0][:160] if text.strip() else DASH


class Row(dict[str, object]):
    """A row of a frame: its values by column name, read as what they are to be."""

    def number(self, column: str) -> float:
        """Read a number."""
        value = self[column]
        if isinstance(value, str | float | int | np.number):
            return float(value)
        raise TypeError(f"{column} is {value!r}, not a number")

    def text(self, column: str) -> str:
        """Read a text; '' where there is none."""
        value = self[column]
        return value if isinstance(value, str) else ""


def row_dicts(data: pd.DataFrame) -> list[Row]:
    """Read a frame's rows."""
    return [Row((str(k), v) for k, v in row.items()) for row in data.to_dict("records")]


def json_ready(value: object) -> object:
    """Convert to JSON's types: numpy scalars unwrapped, NaN and infinities as null."""
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def without_html(text: str) -> str:
    """Escape every `<` of a Markdown text: a name or an error may hold a tag, the report itself writes none."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
