"""docs/extend.md works: what it says to write is written into a copy of the tree, and runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.synthetic_grid import write_grid

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/extend.md"


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of every code block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


def follow(page: str, tree: Path) -> None:
    """Write every file block, and make every change of a diff block, as a reader would."""
    for language, text in blocks(page):
        first, _, rest = text.partition("\n")
        named = re.fullmatch(r" ?# (\S+/\S+\.\w+)", first)
        if named is None:
            continue
        path = tree / named[1]
        if language != "diff":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            continue
        lines = rest.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        code = path.read_text()
        assert code.count(before) == 1, f"the page changes what {named[1]} no longer says: {before}"
        path.write_text(code.replace(before, after))


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A copy of the packages with everything done that the page says."""
    tree = tmp_path_factory.mktemp("extended")
    for name in ("alpkit", "analysis"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore)
    follow(PAGE.read_text(), tree)
    return tree


def run(tree, *command):
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_mathematics_of_the_page_does_what_its_test_says(tree):
    assert "1 passed" in run(tree, "-m", "pytest", "-q", "-c", os.devnull, "tests/objective")


def test_the_page_s_method_is_a_method_and_its_statistic_is_in_the_generated_pages(tree):
    card = run(tree, "-m", "alpkit", "methods", "my/gentle.yaml")
    assert "clip, mismatch, token, in [0.5, 2]" in card
    plan = json.loads(run(tree, "-m", "alpkit", "plan", "my/grid.yaml", "--json"))
    assert [cell["arm"] for cell in plan["cells"]] == ["grpo", "gentle", "gentler"]
    assert "`chi2`" in run(tree, "-m", "alpkit.config.reference")
    assert "`response/length_std`" in run(tree, "-m", "alpkit.metrics")


def test_the_page_s_figure_is_drawn_with_the_others(tree, tmp_path):
    write_grid(tmp_path, name="small", arms=("grpo", "token-tis"), seeds=(0, 1), steps=6)
    code = (
        "import sys\n"
        "from alpkit import analysis\n"
        "from alpkit.analysis.figures import FIGURES, draw, lengths\n"
        "frame = analysis.load('small', root=sys.argv[1])\n"
        "frame.steps['response/length_mean'] = 3.0 + frame.steps['step']\n"
        "assert FIGURES[-1].name == 'lengths'\n"
        "data = lengths.numbers(frame)\n"
        "assert 'token-tis 3.000 to 9.000' in lengths.alt(frame, data), lengths.alt(frame, data)\n"
        "draw('lengths', frame).savefig(sys.argv[1] + '/lengths.png')\n"
    )
    run(tree, "-c", code, str(tmp_path))
    assert (tmp_path / "lengths.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_page_s_commands_run(tree):
    shell = "".join(text for language, text in blocks(PAGE.read_text()) if not language)
    # What follows two spaces is a remark.
    commands = [line.split("  ")[0].split() for line in shell.splitlines()]
    assert len(commands) >= 7
    plan = json.loads(run(tree, "-m", "alpkit", "plan", "my/grid.yaml", "--json"))
    cell = plan["cells"][0]["cell_id"]
    for program, *words in commands:
        words = [cell if word == "CELL" else word for word in words]
        run(tree, *(["-m", program] if program == "alpkit" else []), *words)
    lines = [p.read_text().splitlines() for p in tree.glob("runs/gentle-or-not/*/metrics.jsonl")]
    # Three arms on the adder, and one of them on the page's model.
    assert len(lines) == 4
    assert all("response/length_std" in json.loads(cell[1]) for cell in lines)
