"""Tables hold the numbers that they print, in every format."""

import re
import shutil
import subprocess

import pandas as pd
import pytest

from alpkit.analysis.tables import Table, tex


def test_markdown_latex_and_csv_hold_the_same_rows(report):
    for name in ("main", "tails", "differences", "findings", "receipt"):
        rows = len(pd.read_csv(report.folder / f"{name}.csv"))
        markdown = (report.folder / f"{name}.md").read_text()
        latex = (report.folder / f"{name}.tex").read_text()
        assert sum(line.startswith("| ") for line in markdown.splitlines()) == rows + 2
        inner = latex.split(r"\midrule")[1].split(r"\bottomrule")[0]
        assert inner.count(r" \\") == rows
        widths = {line.count(" & ") for line in inner.splitlines() if line}
        assert len(widths) == 1
        columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", latex)[1]
        assert len(columns) == widths.pop() + 1
        assert rf"\label{{tab:{name}}}" in latex


def test_latex_has_nothing_that_pdflatex_cannot_set(report):
    for path in report.folder.glob("*.tex"):
        text = path.read_text()
        assert text.isascii(), sorted({c for c in text if not c.isascii()})
        assert text.count("{") == text.count("}")
        assert not re.search(r"(?<!\\)[%#_](?![^$]*\$)", text.replace(r"\label{tab:", ""))


def test_latex_escapes_what_it_must():
    assert tex("a_b & 5 % of k̂") == r"a\_b \& 5 \% of $\hat{k}$"
    assert tex("P98 − P2 ≥ {x}") == r"P98 $-$ P2 $\geq$ \{x\}"
    assert tex("-0.5 to seq-1") == "$-$0.5 to seq-1"
    assert tex("a\\b~c^d") == r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"


def test_a_row_that_starts_with_a_bracket_is_no_argument_of_the_row_before():
    shown = pd.DataFrame({"layers": ["all", "[1]"], "n": ["3", "3"]})
    rows = Table("layers", "Layers", "Caption.", shown, shown).latex().splitlines()
    assert r"{}[1] & 3 \\" in rows
    assert r"all & 3 \\" in rows


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(report, tmp_path):
    tables = "".join(path.read_text() for path in sorted(report.folder.glob("*.tex")))
    text = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{tables}\end{{document}}"
    (tmp_path / "all.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)


def test_an_empty_table_is_a_line_of_words():
    table = Table("none", "None", "Caption.", pd.DataFrame(), pd.DataFrame())
    assert table.markdown() == "Nothing to show.\n"
    assert "Nothing to show." in table.latex()
    assert "tabular" not in table.latex()
