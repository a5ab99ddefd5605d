"""One pass over the records pools finished cells in bounded memory."""

import tracemalloc

import numpy as np
import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading import pooled
from alpkit.analysis.reading.pooled import pool_arm
from alpkit.analysis.reading.records import RecordedCell, Records
from alpkit.analysis.tables.tails import tail_frame
from alpkit.diagnostics import ccdf
from alpkit.runs.records import RecordWriter
from tests.support.recorded_ratios import ratios


def test_unfinished_cells_are_not_in_the_tails(frame):
    cells = frame.cells.assign(state=np.where(frame.cells["seed"] == 0, "killed", "finished"))
    partial = GridFrame(cells, frame.steps, frame.records, frame.grid)
    assert partial.pooled["grpo"].levels["token"].n == 2 * 2400


def test_a_small_memory_changes_no_number_but_the_envelopes(frame, tails, monkeypatch):
    monkeypatch.setattr(pooled, "SAMPLE", 1000)
    small = GridFrame(frame.cells, frame.steps, frame.records, frame.grid)
    pool = small.pooled["grpo"].levels["token"]
    assert pool.sample.shape == (1000, 3)
    whole = frame.pooled["grpo"].levels["token"].sample
    assert set(pool.sample[:, 1]) <= set(whole[:, 1])
    np.testing.assert_allclose(pool.sample[:, 0].mean(), whole[:, 0].mean(), atol=0.1)
    again = tail_frame(small).set_index(["arm", "level", "side"])
    pd.testing.assert_frame_equal(again, tails)


def test_the_streamed_band_covers_as_the_diagnostics_band_does(frame):
    tokens = ratios(frame, "grpo")["token"]
    curve = frame.pooled["grpo"].levels["token"].curve["right"]
    place = [int(np.searchsorted(curve.log_size, z)) for z in (0.05, 0.2, 0.6)]
    found = ccdf(
        tokens["log_ratio"].to_numpy(),
        cluster=tokens["cluster"].to_numpy(),
        log_size=curve.log_size[place],
        n_boot=400,
    )
    np.testing.assert_allclose(curve.survival[place], found.survival, atol=1e-12)
    np.testing.assert_allclose((curve.high - curve.low)[place], found.high - found.low, rtol=0.25)


def _records(root, steps, tokens):
    """One cell whose records hold `steps` steps of `tokens` tokens."""
    writer = RecordWriter(root / "records")
    rng = np.random.default_rng(0)
    sample = np.repeat(np.arange(tokens // 20), 20)
    mu = -rng.exponential(0.5, tokens).astype(np.float32)
    number = np.zeros(tokens, np.int32)
    columns = {name: number for name in ("update", "position", "turn", "token", "policy_version")}
    columns |= {"sample": sample, "prompt": sample // 8, "keep": np.ones(tokens, bool)}
    columns |= {"logp_rollout": mu, "logp_old": mu}
    nothing = {name: [] for name in ("sample", "prompt", "prompt_ids", "response_ids", "finish")}
    for step in range(1, steps + 1):
        train = mu + rng.laplace(0, 0.3, tokens).astype(np.float32)
        writer.write(step, {**columns, "logp_train": train}, nothing)
    return Records([RecordedCell("c", "a", 0, root)])


def test_memory_does_not_grow_with_the_number_of_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(pooled, "SAMPLE", 2000)
    monkeypatch.setattr(pooled, "STEPS", 2)
    peaks = {}
    for steps in (6, 36):
        records = _records(tmp_path / str(steps), steps, 20_000)
        tracemalloc.start()
        pool = pool_arm(records, "a", {"c"})
        peaks[steps] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert pool.levels["token"].n == steps * 20_000
    # Only the kept ends grow, with 2 % of the rows; all rows in memory would be six times as much.
    assert peaks[36] < 1.6 * peaks[6]
