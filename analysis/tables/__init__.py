"""Tables of the report, one file each, and `Table`, which holds raw numbers for the CSV and their text.

`Table` renders itself as Markdown and LaTeX; how a number becomes text is `alpkit.analysis.text`.
"""

import re
from dataclasses import dataclass
from typing import Final

import pandas as pd

from alpkit.analysis.text import DASH

NOTHING: Final = "Nothing to show."


@dataclass(frozen=True)
class Table:
    """A table: `data` is what the CSV holds, `shown` has its rows as text."""

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    shown: pd.DataFrame

    def markdown(self) -> str:
        """Write a pipe table; a table without rows is one line of words."""
        if self.shown.empty:
            return f"{NOTHING}\n"
        rows = [list(self.shown.columns), ["---"] * self.shown.shape[1], *self.shown.to_numpy()]
        lines = ("| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows)
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        r"""Write a `table` with booktabs rules, for pdfLaTeX; the paper's preamble needs `\usepackage{booktabs}`."""
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
    """Write text as pdfLaTeX sets it: its special characters escaped, our symbols as mathematics."""
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
