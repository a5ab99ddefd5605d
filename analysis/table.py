"""One table, three renderings: the CSV's raw numbers and the same rows as text, in Markdown and LaTeX.

Also how a number becomes text. What the tables hold is in `alpkit.analysis.tables` and its neighbours.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from alpkit.analysis.seeds.verdicts import Interval

DASH: Final = "–"
NOTHING: Final = "Nothing to show."


@dataclass(frozen=True)
class Table:
    """`data` is what the CSV holds, `shown` the same rows as text."""

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    shown: pd.DataFrame

    def markdown(self) -> str:
        """A pipe table; a table without rows is one line of words."""
        if self.shown.empty:
            return f"{NOTHING}\n"
        rows = [list(self.shown.columns), ["---"] * self.shown.shape[1], *self.shown.to_numpy()]
        lines = ("| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows)
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        r"""A `table` with booktabs rules, for pdfLaTeX; the paper's preamble needs `\usepackage{booktabs}`."""
        words = [is_words(self.shown[name]) for name in self.shown.columns]
        if self.shown.empty:
            body = [tex(NOTHING)]
        else:
            # The braces: a row that starts with a bracket would be an argument of the row before it.
            lines = [
                "{}" * str(row[0]).startswith("[") + " & ".join(tex(str(c)) for c in row) + r" \\"
                for row in self.shown.to_numpy()
            ]
            header = " & ".join(tex(str(c)) for c in self.shown.columns) + r" \\"
            columns = "".join("l" if word else "r" for word in words)
            body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule", *lines]
            body += [r"\bottomrule", r"\end{tabular}"]
        head = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(self.title)}. {tex(self.caption)}}}",
        ]
        return "\n".join([*head, rf"\label{{tab:{self.name}}}", *body, r"\end{table}"]) + "\n"


def tex(text: str) -> str:
    """Text as pdfLaTeX sets it: its special characters escaped, our symbols as mathematics."""
    text = re.sub(r"(?<!\w)-(?=\d)", "−", text.replace("k̂", "\0"))
    return "".join(_TEX.get(c, c) for c in text)


_TEX: Final = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{
        "<": "$<$",
        ">": "$>$",
        "|": "$|$",
        "\0": r"$\hat{k}$",
        "−": "$-$",
        "–": "--",
        "…": r"\ldots{}",
    },
    **{"·": r"$\cdot$", "×": r"$\times$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$"},
    **{"π": r"$\pi$", "µ": r"$\mu$", "μ": r"$\mu$", "σ": r"$\sigma$", "θ": r"$\theta$"},
    **{
        "δ": r"$\delta$",
        "ρ": r"$\rho$",
        "χ": r"$\chi$",
        "²": "$^2$",
        "→": r"$\to$",
        "ε": r"$\epsilon$",
    },
}


def is_words(column: "pd.Series[str]") -> bool:
    """Whether a column aligns left: its cells start with letters, or there is nothing in it."""
    return all(str(cell)[:1].isalpha() or str(cell) == DASH for cell in column)


def records(data: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as mappings, whose values mypy lets through."""
    return [{str(k): v for k, v in row.items()} for row in data.to_dict("records")]


def number(value: float, digits: int) -> str:
    """Fixed digits; scientific where those would show nothing; a dash for NaN."""
    if not np.isfinite(value):
        return DASH
    if value != 0 and (abs(value) < 0.5 * 10.0**-digits or abs(value) >= 1e5):
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


def with_bounds(value: float, low: float, high: float, digits: int) -> str:
    """`0.41 [0.32, 0.50]`; a dash for NaN. A bound near 0 is a 0, unless all three are tiny."""
    if not np.isfinite(value):
        return DASH
    step = 0.5 * 10.0**-digits
    if max(abs(value), abs(low), abs(high)) >= step:
        low, high = (0.0 if abs(bound) < step else bound for bound in (low, high))
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def interval_text(interval: Interval, digits: int) -> str:
    """Mean [low, high] from three seeds on, both points with two, the value with one."""
    match interval.kind:
        case "none":
            return DASH
        case "t":
            return with_bounds(interval.mean, interval.low, interval.high, digits)
        case "single" | "range":
            return " · ".join(number(point, digits) for point in interval.points)


def signed_points(points: "tuple[float, ...]") -> str:
    """Differences seed by seed: `+0.1 · -0.02`."""
    return " · ".join(f"{p:+.3g}" for p in points) if points else DASH


def first_line(text: str) -> str:
    """What an error says, without its traceback."""
    return text.strip().splitlines()[0][:160] if text.strip() else DASH
