"""The report folder: self-contained, replaced whole, honest about seeds, and able to read ruins."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pandas as pd
import pytest
from synthetic_grid import write_grid

import analysis
from alpkit.errors import TrackingError
from analysis import style
from analysis.receipt import swallowed
from analysis.report import report_id


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
    for name in ("dynamics", "envelope", "ccdf"):
        assert {f"{name}.png", f"{name}.svg", f"{name}.csv"} <= set(report.files)
    for name in ("results", "divergence", "spread", "tails", "differences", "receipt", "cells"):
        assert {f"{name}.csv", f"{name}.md"} <= set(report.files)
    assert {"report.md", "report.html", "summary.json"} <= set(report.files)


def test_html_asks_the_network_for_nothing(page):
    for tag, attributes in Tags(page).found:
        assert tag != "script"
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:")), (tag, name, value[:60])
    assert not re.search(r"url\(|@import|https?://", page)


def test_every_image_says_what_it_shows(page):
    images = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    assert len(images) == 3
    for attributes in images:
        assert len(attributes["alt"]) > 80
        assert "seq-bypass" in attributes["alt"]
    assert "prefers-color-scheme:dark" in page
    assert 'name="viewport"' in page


def test_markdown_names_files_that_exist(report):
    text = (report.folder / "report.md").read_text(encoding="utf-8")
    names = re.findall(r"\]\(([^)]+)\)", text)
    assert sorted(names) == ["ccdf.png", "dynamics.png", "envelope.png"]
    assert set(names) <= set(report.files)


def test_planted_truths_are_in_the_report(report, page):
    summary = report.summary
    heavy = summary["arms"]["seq-bypass"]["tails"]["token/right"]
    light = summary["arms"]["seq-alp"]["tails"]["token/right"]
    assert heavy["khat_low"] > light["khat_high"]
    beyond = {(v["arm"], v["endpoint"]) for v in summary["verdicts"] if v["beyond_noise"]}
    assert ("seq-alp", "final_reward") in beyond
    assert {arm for arm, _ in beyond} == {"seq-alp"}
    assert "seq-alp − seq-bypass, final reward: +0.08" in page
    assert not re.search(r"\b(best|winner|wins|outperforms)\b", page)


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


def test_two_seeds_show_points_no_verdict_and_reanalysis_replaces(small_root):
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
    assert "token-tis against grpo: 2 shared finished seed(s), no verdict" in text
    assert "both points, no mean" in text
    assert re.search(r"\| grpo \| 2 \| 0\.\d+ · 0\.\d+ \|", text)


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
    assert "nothing to draw" in (report.folder / "report.md").read_text()


def test_one_cell_has_its_own_report_folder(small_root):
    frame = analysis.load("run-0001abcdef", root=small_root)
    assert report_id(frame) == "small-01234567-0001abcdef"


def test_a_broken_manifest_is_a_readable_error(small_root):
    (small_root / "runs/small/grid.json").write_text("{")
    with pytest.raises(TrackingError, match=r"grid\.json"):
        analysis.analyze("runs/small", root=small_root)
    assert not (small_root / "reports").exists()


def test_importing_and_drawing_leave_global_settings_alone(report):
    before = dict(matplotlib.rcParams)
    with style.context():
        assert matplotlib.rcParams["svg.hashsalt"] == "alpkit"
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.rcParams["svg.hashsalt"] is None


def test_an_arm_keeps_its_colour_whatever_stands_beside_it():
    cells = pd.DataFrame(
        {
            "arm": ["seq-alp layers=early", "seq-bypass", "mine"],
            "site": ["layer_input", None, None],
            "layers": ["early", None, None],
        }
    )
    looks = style.looks(cells)
    assert looks["seq-alp layers=early"] == (style.METHOD_COLOURS["seq-alp"], "--", "o")
    assert looks["seq-bypass"] == (style.METHOD_COLOURS["seq-bypass"], "-", None)
    assert looks["mine"].colour == style.OTHER_COLOUR


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_the_page_opens_without_a_console_error(report, tmp_path):
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --enable-logging=stderr --v=0"
    )
    command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path}", "--dump-dom"]
    done = subprocess.run(
        [*command, (report.folder / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    drawn = [name for name in report.files if name.endswith(".png")]
    assert done.stdout.count("<figure") == len(drawn)


def test_noise_that_the_dtype_swallows_is_a_warning(tmp_path):
    folder = write_grid(tmp_path, arms=("seq-bypass", "seq-alp"), seeds=(0,), steps=6)
    for cell in folder.glob("*/metrics.jsonl"):
        lines = [json.loads(line) for line in cell.read_text().splitlines()]
        for line in lines:
            line["noise/realised_ratio"] = 0.28 if "/01" in str(cell) else None
        cell.write_text("".join(json.dumps(line) + "\n" for line in lines))
    frame = analysis.load(folder)
    assert swallowed(frame) == [
        "seq-alp: 0.28 of its noise's standard deviation arrived (mean over steps of the worst "
        "layer): the dtype swallows a sigma this small."
    ]
