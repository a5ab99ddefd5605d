"""Names and errors that mean something to matplotlib, a spreadsheet or a browser are text here."""

import csv
import json

import pytest

from alpkit import analysis
from alpkit.analysis.figures import FIGURES
from alpkit.analysis.text import without_html
from alpkit.runs.csv import neutral
from tests.support.synthetic_grid import write_grid

NAMES = ("grpo", "gspo", "token-tis", "seq-mis", "seq-bypass")
ARMS = (r"grpo $\frac{$", "=cmd|' /C calc'!A0", "<img src=x onerror=alert(1)>", "-minus", "@at")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    folder = write_grid(root, name="hostile", arms=NAMES, seeds=(0,), steps=12, controls={})
    called = dict(zip(NAMES, ARMS, strict=True))
    manifest = json.loads((folder / "grid.json").read_text())
    for cell in manifest["cells"]:
        path = folder / cell["cell_id"] / "cell.json"
        state = json.loads(path.read_text())
        state["arm"] = cell["arm"] = called[cell["arm"]]
        path.write_text(json.dumps(state))
    (folder / "grid.json").write_text(json.dumps(manifest))
    with pytest.MonkeyPatch.context() as patch:
        # One figure with a legend of all arms is enough: all share one style.
        patch.setattr(
            "alpkit.analysis.report.compose.FIGURES", [f for f in FIGURES if f.name == "dynamics"]
        )
        return analysis.analyze("hostile", root=root)


def test_every_file_is_written_and_no_cell_is_a_formula(hostile):
    assert "dynamics.png" in hostile.files
    seen = set()
    for path in hostile.folder.glob("*.csv"):
        for row in csv.reader(path.open()):
            for cell in row:
                seen |= {arm for arm in ARMS if arm in cell}
                assert neutral(cell) == cell, (path.name, cell)
    assert seen == set(ARMS)


def test_no_tag_of_a_name_is_one_in_the_markdown_or_the_page(hostile):
    for path in hostile.folder.glob("*.md"):
        assert "<img" not in path.read_text(), path.name
    assert "&lt;img src=x onerror" in (hostile.folder / "report.md").read_text()
    page = (hostile.folder / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_only_texts_that_begin_like_formulas_are_changed():
    changed = {value: neutral(value) for value in ("=1+1", "+x", "-x", "@a", "\tx", "-0.5 [x]")}
    assert changed == {value: f"'{value}" for value in changed}
    for value in ("-0.5", "+3e-4", "-inf", "a=b", "", 3, -2.5, None):
        assert neutral(value) == value


def test_a_comparison_stays_readable():
    assert without_html("k < 3, a<b, <b>, </p>") == "k < 3, a&lt;b, &lt;b>, &lt;/p>"
