"""Spikes are read with their surroundings; what a run did not write whole is named."""

import pytest

from alpkit import analysis
from alpkit.analysis.tables.spikes import spikes_table
from tests.support.synthetic_grid import write_grid


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


def test_the_log_is_read_once(tmp_path):
    folder = write_grid(tmp_path, arms=("grpo", "seq-bypass"), seeds=(1,), steps=40)
    frame = analysis.load("synthetic", root=tmp_path)
    first = frame.spike_log
    for path in folder.glob("*/spikes.jsonl"):
        path.unlink()
    assert frame.spike_log is first
    assert len(first.rows) == 1
