"""Pages lead somewhere: links resolve, files that are named exist, and no page of another place is named."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "experiments/README.md"]
SOURCES = [p for room in ("alpkit", "analysis", "benchmarks") for p in (ROOT / room).rglob("*.py")]
ELSEWHERE = (
    r"\bspec/|\b(?:design|scale|layout|style|ecosystem|corrections)\.md|\b(?:design|corrections) §"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


def test_every_file_that_the_architecture_names_exists():
    text = (ROOT / "docs/architecture.md").read_text()
    places = {p.name for room in ("alpkit", "analysis") for p in (ROOT / room).rglob("*.py")}
    named = set(re.findall(r"[\w/]+\.py\b", text))
    assert len(named) > 30
    for name in named:
        assert Path(name).name in places, name
        if "/" in name:
            roots = (ROOT, ROOT / "alpkit", ROOT / "alpkit" / "config", ROOT / "analysis")
            assert any((root / name).exists() for root in roots), name


@pytest.mark.parametrize("room", ["alpkit", "analysis", "benchmarks", "docs"])
def test_nothing_names_a_page_that_is_not_in_the_repository(room):
    texts = PAGES if room == "docs" else [p for p in SOURCES if p.is_relative_to(ROOT / room)]
    found = {str(p): m[0] for p in texts if (m := re.search(ELSEWHERE, p.read_text()))}
    assert not found


def test_the_readme_fits_on_two_screens_and_explains_the_ratio_before_it_is_used():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 200
    first = {word: text.index(word) for word in ("**μ**", "**π_θ**", "**importance ratio**")}
    assert max(first.values()) < text.index("## Two commands")
    for link in ("docs/extend.md", "notebooks/05_your_own_correction.py", "docs/architecture.md"):
        assert link in text
