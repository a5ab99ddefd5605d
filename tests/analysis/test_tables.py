"""Tables hold the numbers that they print, in every format."""

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from alpkit import analysis
from alpkit.analysis.pairs import pairs
from alpkit.analysis.seeds.rliable import improvement, iqm
from alpkit.analysis.seeds.verdicts import verdicts
from alpkit.analysis.tables import Table, tex
from alpkit.analysis.tables.cost import cost_frame
from alpkit.analysis.tables.main import main_table
from alpkit.analysis.tables.spikes import spikes_table
from alpkit.analysis.text import number, with_bounds
from tests.support.synthetic_grid import write_grid


def main_of(frame):
    compared = pairs(frame)
    return main_table(
        frame, compared, verdicts(frame.cells, [(p.arm, p.control) for p in compared])
    )


def test_main_result_holds_iqm_points_and_both_probabilities(frame):
    table = main_of(frame)
    row = table.data.set_index(["arm", "score"]).loc["seq-alp", "final_reward"]
    scores = frame.cells.set_index(["arm", "seed"])["final_reward"]
    own, control, grpo = (scores[arm] for arm in ("seq-alp", "seq-bypass", "grpo"))
    assert row["iqm"] == pytest.approx(iqm(own))
    assert row["iqm"] == pytest.approx(stats.trim_mean(own, 0.25))
    assert (row["control"], row["n"]) == ("seq-bypass", 3)
    assert row["over_control"] == improvement(own, control).value == 1.0
    assert row["over_grpo"] == improvement(own, grpo).value
    paired = [float(p) for p in row["paired"].split(";")]
    np.testing.assert_allclose(paired, (own - control).to_numpy(), rtol=1e-6)


def test_below_five_seeds_the_points_stand_where_the_interval_would(frame, tmp_path):
    shown = main_of(frame).shown
    assert all(text.count("·") == 2 and "[" not in text for text in shown["95 % or points"])
    write_grid(tmp_path, arms=("grpo", "token-tis"), seeds=range(5), steps=12)
    table = main_of(analysis.load("synthetic", root=tmp_path))
    assert all(re.fullmatch(r"\[0\.\d+, 0\.\d+\]", text) for text in table.shown["95 % or points"])
    assert "[" in table.shown["P(> control)"].iloc[-1]
    for row in table.data.to_dict("records"):
        assert row["iqm_low"] <= row["iqm"] <= row["iqm_high"]
    # GRPO has no control, and is not compared with itself.
    assert table.data["over_control"].isna().tolist() == [True, True, False, False]


def test_cost_leaves_evaluation_out_and_adds_up(frame):
    data = cost_frame(frame)
    assert len(data) == 18
    # Every step takes 2 s beside its evaluation, and trains on 480 tokens.
    np.testing.assert_allclose(data["step_s"], 2.0)
    np.testing.assert_allclose(data["tokens_per_s"], 240.0)
    np.testing.assert_allclose(data["diagnostics_share"], 0.1)
    np.testing.assert_allclose(data["rollout_share"] + data["update_share"], 0.9)
    assert "peak_gib" not in data


def test_cost_has_memory_where_it_was_logged(small_root, words_only):
    for path in small_root.glob("runs/small/*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["memory/peak"] = 1.0 + line["step"] / 100
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = analysis.analyze("small", root=small_root)
    assert "peak memory, GiB" in (report.folder / "cost.md").read_text()
    np.testing.assert_allclose(pd.read_csv(report.folder / "cost.csv")["peak_gib"], 1.12)


def test_spikes_come_from_the_file_with_their_surroundings(frame):
    log = frame.spike_log
    row = log.rows.iloc[0]
    assert (row["arm"], row["seed"], row["step"], row["metric"]) == ("seq-bypass", 1, 27, "kl/k3")
    own = frame.steps[(frame.steps["arm"] == "seq-bypass") & (frame.steps["seed"] == 1)]
    norm = own.set_index("step")["train/grad_norm"]
    assert row["train/grad_norm_at"] == norm[27]
    assert row["train/grad_norm_before"] == pytest.approx(norm.loc[22:26].mean())
    assert row["train/grad_norm_after"] == pytest.approx(norm.loc[28:32].mean())
    assert row["tokens_1"] == 0.62
    assert log.rates["seq-bypass"] == (1, 72)


def test_flags_alone_give_rows_without_shares(tmp_path):
    folder = write_grid(tmp_path, arms=("grpo", "seq-bypass"), seeds=(1,), steps=40)
    for path in folder.glob("*/spikes.jsonl"):
        path.unlink()
    log = analysis.load("synthetic", root=tmp_path).spike_log
    assert log.rows[["arm", "step", "metric", "z"]].to_numpy().tolist() == [
        ["seq-bypass", 27, "kl/k3", 11.5]
    ]
    assert log.rows["tokens_1"].isna().all()
    assert log.missing == ()
    assert "–" in spikes_table(log).markdown()


def test_half_a_spike_is_named_and_the_whole_ones_are_read(tmp_path, words_only):
    folder = write_grid(tmp_path, arms=("grpo", "seq-bypass"), seeds=(1,), steps=40)
    path = next(folder.glob("*/spikes.jsonl"))
    # A token of Unicode's own line end, then half a line with half a character.
    whole = path.read_text().replace('"7"', '"\u2028"').encode()
    path.write_bytes(whole + whole[:200] + b"\xce")
    report = analysis.analyze("synthetic", root=tmp_path)
    assert len(report.summary["spikes"]) == 1
    assert report.summary["missing"] == [
        f"{path.parent.name}/spikes.jsonl:2: not a whole line of JSON; left out"
    ]
    assert "spikes.jsonl:2" in (report.folder / "report.md").read_text()


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


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.12345, 2, "0.12"),
        (1e-5, 2, "1.0e-05"),
        (0.0, 2, "0.00"),
        (np.nan, 2, "–"),
        (2e6, 1, "2.0e+06"),
    ],
)
def test_numbers_as_text(value, digits, text):
    assert number(value, digits) == text


def test_a_bound_near_zero_is_a_zero_beside_larger_ones():
    assert with_bounds(0.17, -0.0029, 0.32, 2) == "0.17 [0.00, 0.32]"
    assert with_bounds(1e-4, 1e-5, 2e-4, 2) == "1.0e-04 [1.0e-05, 2.0e-04]"
