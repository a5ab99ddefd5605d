"""The report folder: self-contained, replaced whole, honest about seeds, and able to read ruins."""

import itertools
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from alpkit import analysis
from alpkit.analysis.report.write import report_id
from alpkit.errors import TrackingError

DRAWN = ("dynamics", "envelope", "ccdf")


TABLES = ("findings", "differences", "main", "results", "divergence", "spread", "tails", "spikes")


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def page(report):
    return (report.folder / "report.html").read_text(encoding="utf-8")


def test_files_and_place(report, grid_root):
    assert report.folder == grid_root / "reports" / "synthetic-01234567"
    for name in DRAWN:
        assert {f"{name}.png", f"{name}.svg", f"{name}.csv"} <= set(report.files)
    for name in TABLES:
        assert {f"{name}.csv", f"{name}.md", f"{name}.tex"} <= set(report.files)
    assert {"report.md", "report.html", "summary.json"} <= set(report.files)


def test_html_asks_the_network_for_nothing(page):
    for _, attributes in Tags(page).found:
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:")), (name, value[:60])
    assert not re.search(r"url\((?!#)|@import|https?://|fetch\(|XMLHttp", page)
    assert "default-src 'none'" in page
    # One script that runs; the others hold figures' values, and no browser runs those.
    assert page.count("<script>") == 1
    assert page.count("<script") - 1 == page.count('<script type="application/json"')


def test_every_figure_says_what_it_shows(page):
    drawings = [
        attributes for tag, attributes in Tags(page).found if attributes.get("role") == "img"
    ]
    assert len(drawings) > len(DRAWN)
    for attributes in drawings:
        assert len(attributes["aria-label"]) > 80
    assert "prefers-color-scheme:dark" in page
    assert 'name="viewport"' in page


def test_headings_step_down_one_at_a_time_and_ids_are_there_once(page):
    tags = Tags(page).found
    levels = [int(tag[1]) for tag, _ in tags if tag in ("h1", "h2", "h3", "h4", "h5")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for tag, a in tags if tag == "a" and a["href"].startswith("#")}
    assert links <= set(ids)


def test_the_page_is_small(report):
    assert (report.folder / "report.html").stat().st_size <= 1_500_000


def test_markdown_names_files_that_exist(report):
    text = (report.folder / "report.md").read_text(encoding="utf-8")
    names = re.findall(r"\]\(([^)]+)\)", text)
    assert {f"{name}.png" for name in DRAWN} <= set(names)
    assert set(names) <= set(report.files)


def test_a_correction_that_touched_nothing_is_a_warning(report, page):
    assert len(report.summary["warnings"]) == 1
    assert report.summary["warnings"][0].startswith("seq-mis: its weight mask (upper 2) touched")
    assert "touched no token" in page


def test_summary_is_json_and_lies_beside_the_report(report):
    text = json.dumps(report.summary, allow_nan=False)
    assert json.loads(text) == json.loads((report.folder / "summary.json").read_text())


def test_table_csv_holds_the_seeds_points(report, frame):
    data = pd.read_csv(report.folder / "results.csv").set_index("arm")
    own = frame.cells[frame.cells["arm"] == "grpo"]["final_reward"]
    points = [float(p) for p in data.loc["grpo", "final_reward_points"].split(";")]
    np.testing.assert_allclose(points, own, rtol=1e-8)
    assert data.loc["grpo", "final_reward_mean"] == pytest.approx(own.mean())
    assert (data["n"] == 3).all()
    assert set(data["final_reward_interval"]) == {"t"}


def test_two_seeds_show_points_no_verdict_and_reanalysis_replaces(small_root, words_only):
    first = analysis.analyze("small", root=small_root)
    (first.folder / "left-over.txt").write_text("old")
    second = analysis.analyze("small", root=small_root)
    assert second.folder == first.folder
    assert second.files == first.files
    assert [p.name for p in (small_root / "reports").iterdir()] == [first.folder.name]
    assert second.summary["verdict_given"] is False
    assert second.summary["verdicts"] == []
    text = (second.folder / "report.md").read_text()
    assert "No verdict" in text
    assert "### token-tis against grpo" in text
    assert text.count("**cannot be said**. 2 shared finished seeds, a test needs 3.") == 3
    # Twelve steps are too few for a peak.
    assert "No shared finished seed has log10 of K3's P99 over its median" in text
    assert "both points, no mean" in text
    assert "**No difference can be claimed: 2 shared finished seeds, a test needs 3." in text
    assert text.count("No difference can be claimed") == 1
    assert re.search(r"\| grpo \| 2 \| 0\.\d+ to 0\.\d+ \|", text)
    # A difference without a test beside it is not shown; the file has it.
    assert "Paired differences" not in text
    assert "differences.csv" in second.files


def test_no_finished_cell_still_gives_a_report(small_root):
    for path in (small_root / "runs/small").glob("*/cell.json"):
        data = json.loads(path.read_text())
        path.write_text(
            json.dumps({**data, "state": "failed", "error": "OutOfMemory: 3 < 4 & more"})
        )
    report = analysis.analyze("small", root=small_root)
    text = (report.folder / "report.html").read_text()
    assert "No cell has finished" in text
    assert "grpo, seed 0" in text
    assert "3 &lt; 4 &amp; more" in text
    assert report.summary["cells"] == {"failed": 4}


def test_ruins_are_reported_not_raised(small_root):
    folder = small_root / "runs/small"
    shutil.rmtree(folder / "0000abcdef/records")
    (folder / "0001abcdef/records/tokens-000001.parquet").write_bytes(b"no")
    path = folder / "0100abcdef/cell.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "state": "killed", "steps_done": 3})
    )
    metrics = folder / "0101abcdef/metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])
    report = analysis.analyze("small", root=small_root)
    text = (report.folder / "report.md").read_text()
    assert "token-tis, seed 0: killed after 3 step(s)" in text
    assert "0000abcdef/records: no token records" in text
    assert "0001abcdef/records/tokens-000001.parquet: not readable" in text
    assert "0101abcdef/metrics.jsonl:13" in text
    assert report.summary["arms"]["token-tis"]["n"] == 1


def test_cells_without_records_and_without_metrics(small_root):
    for name in ("records", "metrics.jsonl"):
        for path in (small_root / "runs/small").glob(f"*/{name}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = analysis.analyze("small", root=small_root)
    assert report.summary["arms"]["grpo"]["tails"] == {}
    assert "not drawn, no cell has logged a step" in (report.folder / "report.md").read_text()


def test_one_cell_has_its_own_report(small_root, words_only):
    frame = analysis.load("run-0001abcdef", root=small_root)
    assert report_id(frame) == "small-01234567-0001abcdef"
    report = analysis.analyze("run-0001abcdef", root=small_root)
    text = (report.folder / "report.md").read_text()
    assert text.startswith("# small: grpo, seed 1\n")
    assert "This is one cell: alpkit analyze small has its grid's comparisons." in text
    assert report.summary["findings"] == []
    assert report.summary["arms"]["grpo"]["n"] == 1


def test_a_broken_manifest_is_a_readable_error(small_root):
    (small_root / "runs/small/grid.json").write_text("{")
    with pytest.raises(TrackingError, match=r"grid\.json"):
        analysis.analyze("runs/small", root=small_root)
    assert not (small_root / "reports").exists()


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_in_a_browser_the_first_screen_answers_and_the_rest_unfolds(report, tmp_path):
    pytest.importorskip("websocket")
    from tests.support.browser import open_tab

    with open_tab(tmp_path) as tab:
        tab.view(1280, 900)
        url = (report.folder / "report.html").as_uri()
        tab.open(url)
        # Claims, figure, table and limits stand above the fold.
        for part in (".claims", "#figure-summary svg", "table.arms", "p.limits"):
            bottom = f"document.querySelector('{part}').getBoundingClientRect().bottom"
            assert 0 < tab.evaluate(bottom) <= 900, part
        # A click in the legend takes the arm out of the figure, a second one brings it back.
        key = "document.querySelector('#figure-summary button[data-arm=\"seq-alp\"]')"
        lines = "document.querySelector('#figure-summary svg [data-arm=\"seq-alp\"]')"
        shown = f"getComputedStyle({lines}).display !== 'none'"
        assert tab.evaluate(shown)
        tab.click(key)
        assert not tab.evaluate(shown)
        assert tab.evaluate(f"{key}.getAttribute('aria-pressed')") == "false"
        tab.evaluate(f"{key}.focus()")
        tab.press_enter()
        assert tab.evaluate(shown)
        # Values under the pointer.
        tab.evaluate(
            "(()=>{const s=document.querySelector('#figure-summary svg'),b=s.getBoundingClientRect();"
            "s.dispatchEvent(new PointerEvent('pointermove',"
            "{clientX:b.x+b.width*.2,clientY:b.y+b.height*.4,bubbles:true}))})()"
        )
        tip = "document.querySelector('#figure-summary .tip')"
        assert not tab.evaluate(f"{tip}.hidden")
        assert "seq-alp: 0." in tab.evaluate(f"{tip}.textContent")
        # An arm's name opens its comparison.
        fold = "document.getElementById('pair-seq-alp-seq-bypass')"
        assert not tab.evaluate(f"{fold}.open")
        tab.click("[...document.querySelectorAll('table.arms a')].at(-1)")
        assert tab.evaluate(f"{fold}.open && {fold}.closest('.section').open")
        # Tables sort and filter.
        tab.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
        table = "document.querySelector('#tails-token table')"
        heads = tab.evaluate(f"[...{table}.tHead.rows[0].cells].map(c => c.innerText.trim())")
        column = next(i for i, head in enumerate(heads) if head.startswith("k̂"))
        button = f"{table}.tHead.rows[0].cells[{column}].querySelector('button')"

        def sizes():
            script = f"[...{table}.tBodies[0].rows].map(r => r.cells[{column}].textContent)"
            return [float(text.split(" [")[0]) for text in tab.evaluate(script)]

        before = sizes()
        tab.click(button)
        assert sizes() == sorted(before) != before
        assert tab.evaluate(f"{button}.parentNode.ariaSort") == "ascending"
        rows = "[...document.querySelector('[data-filter] tbody').rows]"
        tab.evaluate(
            "(()=>{const i=document.querySelector('input.filter');i.value='seq-alp';"
            "i.dispatchEvent(new Event('input'))})()"
        )
        left = f"{rows}.filter(r => !r.classList.contains('off')).map(r => r.textContent)"
        assert tab.evaluate(left)
        assert all("seq-alp" in text for text in tab.evaluate(left))
        for width in (390, 1280):
            tab.view(width)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.console == []
        assert [request for request in tab.requests if not request.startswith("data:")] == [url]
