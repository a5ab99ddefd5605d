"""Records: what goes in comes out, a broken file is named, and a token stays cheap."""

import threading

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alpkit.errors import TrackingError
from alpkit.runs.faults import Fault
from alpkit.runs.records import (
    SEQUENCE_SCHEMA,
    TOKEN_SCHEMA,
    BackgroundWriter,
    RecordWriter,
    count_rows,
    dataset,
    read,
    read_sequences,
    recorded_steps,
    rewind,
    scan,
    scan_step,
)

COLUMNS = {
    *(
        "step",
        "update",
        "sample",
        "prompt",
        "position",
        "turn",
        "token",
        "logp_rollout",
        "logp_old",
    ),
    *("logp_train", "logp_perturbed", "entropy", "keep", "advantage", "reward", "policy_version"),
    "weight",
}


def batch(samples=6, length=4, seed=0):
    rng = np.random.default_rng(seed)
    n = samples * length
    sample = np.repeat(np.arange(samples), length)
    rollout = -rng.exponential(1.0, n)
    tokens = {
        "update": sample % 2,
        "sample": sample,
        "prompt": sample // 2,
        "position": np.tile(np.arange(length), samples),
        "turn": np.zeros(n, int),
        "token": rng.integers(0, 50_000, n),
        "logp_rollout": rollout,
        "logp_old": rollout + rng.normal(0, 0.01, n),
        "logp_train": rollout + rng.normal(0, 0.02, n),
        "logp_perturbed": rollout + rng.normal(0, 0.03, n),
        "entropy": rng.exponential(1.0, n),
        "keep": rng.random(n) > 0.1,
        "advantage": np.repeat(rng.normal(size=samples), length),
        "reward": np.repeat(rng.integers(0, 2, samples), length).astype(float),
        "policy_version": np.full(n, 3),
    }
    sequences = {
        "sample": np.arange(samples),
        "prompt": np.arange(samples) // 2,
        "prompt_ids": [[1, 2, 3]] * samples,
        "response_ids": [row.tolist() for row in tokens["token"].reshape(samples, length)],
        "reward": tokens["reward"][::length],
        "advantage": tokens["advantage"][::length],
        "finish": ["stop", "length"] * (samples // 2),
    }
    return tokens, sequences


def test_a_step_comes_back_as_it_was_written(tmp_path):
    tokens, sequences = batch()
    path = RecordWriter(tmp_path / "records").write(10, tokens, sequences)
    assert path == tmp_path / "records" / "tokens-000010.parquet"
    frame = read(tmp_path)
    assert set(frame.columns) == COLUMNS == set(TOKEN_SCHEMA.names)
    assert (frame["step"] == 10).all()
    for name, column in tokens.items():
        expected = column.astype(np.float32) if column.dtype == float else column
        np.testing.assert_array_equal(frame[name].to_numpy(), expected, err_msg=name)
    assert frame["logp_rollout"].dtype == np.float32
    assert frame["keep"].dtype == bool
    back = read_sequences(tmp_path)
    assert [list(row) for row in back["response_ids"]] == sequences["response_ids"]
    assert list(back["finish"]) == sequences["finish"]
    np.testing.assert_array_equal(back["reward"], sequences["reward"])
    assert back["response_mask"].isna().all()


def test_what_was_not_computed_is_null(tmp_path):
    tokens, sequences = batch()
    tokens["logp_perturbed"] = np.full(24, np.nan)
    tokens["logp_old"][:3] = np.nan
    del tokens["entropy"]
    path = RecordWriter(tmp_path / "records").write(1, tokens, sequences)
    table = dataset(tmp_path).to_table()
    assert table["logp_perturbed"].null_count == table["entropy"].null_count == 24
    assert table["logp_old"].null_count == 3
    assert read(tmp_path)["entropy"].isna().all()
    assert [p.name for p in path.parent.iterdir() if "tmp" in p.name] == []


def test_steps_and_columns_are_selected_and_rewriting_replaces(tmp_path):
    writer = RecordWriter(tmp_path / "records")
    for step in (20, 1, 10):
        writer.write(step, *batch(seed=step))
    writer.write(10, *batch(samples=2, seed=99))
    assert recorded_steps(tmp_path) == [1, 10, 20]
    frame = read(tmp_path, columns=["step", "logp_train"], steps=[10, 20])
    assert list(frame.columns) == ["step", "logp_train"]
    assert frame.groupby("step").size().to_dict() == {10: 8, 20: 24}
    expected = batch(samples=2, seed=99)[0]["logp_train"].astype(np.float32)
    np.testing.assert_array_equal(frame["logp_train"][:8], expected)
    kept = dataset(tmp_path).to_table(columns=["sample"], filter=pc.field("step") == 1)
    assert kept.num_rows == 24
    assert dataset(tmp_path, steps=[10]).count_rows() == 8


def test_a_broken_file_is_named_or_skipped(tmp_path):
    writer = RecordWriter(tmp_path / "records")
    for step in (1, 2, 3):
        path = writer.write(step, *batch(seed=step))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "records" / "tokens-000002.parquet").write_bytes(b"")
    with pytest.raises(TrackingError, match=r"tokens-000002\.parquet"):
        read(tmp_path)
    frame, faults = scan(tmp_path)
    assert frame["step"].unique().tolist() == [1]
    assert [fault.place_in(tmp_path / "records") for fault in faults] == [
        "tokens-000002.parquet",
        "tokens-000003.parquet",
    ]
    assert all(str(tmp_path) not in fault.reason for fault in faults)
    assert [isinstance(count_rows(tmp_path, step), Fault) for step in (1, 2, 3)] == [
        False,
        True,
        True,
    ]
    assert count_rows(tmp_path, 1) == scan_step(tmp_path, 1, ["token"]).num_rows == 24
    assert len(read_sequences(tmp_path)) == 18


def test_a_foreign_parquet_file_is_not_mistaken_for_records(tmp_path):
    (tmp_path / "records").mkdir()
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "records" / "tokens-000001.parquet")
    with pytest.raises(TrackingError, match=r"tokens-000001\.parquet"):
        read(tmp_path)


def test_missing_records_say_what_there_is(tmp_path):
    assert recorded_steps(tmp_path) == []
    with pytest.raises(TrackingError, match=r"records\.every"):
        read(tmp_path)
    frame, faults = scan(tmp_path, kind="sequences")
    assert frame.empty
    assert list(frame.columns) == SEQUENCE_SCHEMA.names
    assert len(faults) == 1
    RecordWriter(tmp_path / "records").write(5, *batch())
    with pytest.raises(TrackingError, match="recorded steps: 5"):
        read(tmp_path, steps=[6])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(logp_trian=t.pop("logp_train")), "did you mean 'logp_train'"),
        (lambda t: t.pop("sample"), "lacks sample"),
        (lambda t: t.update(token=t["token"][:-1]), "differ in length"),
        (lambda t: t.update(turn=np.full(24, 40_000)), "turn does not fit int16"),
    ],
)
def test_a_wrong_record_is_refused_and_leaves_no_file(tmp_path, change, message):
    tokens, sequences = batch()
    change(tokens)
    with pytest.raises(TrackingError, match=message):
        RecordWriter(tmp_path / "records").write(1, tokens, sequences)
    assert list((tmp_path / "records").iterdir()) == []


def test_an_unknown_column_is_refused_on_reading(tmp_path):
    RecordWriter(tmp_path / "records").write(1, *batch())
    with pytest.raises(TrackingError, match="did you mean 'entropy'"):
        read(tmp_path, columns=["entropie"])


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans(), FLOATS, FLOATS), max_size=20)
)
def test_any_row_survives_the_round_trip(tmp_path, rows):
    n = len(rows)
    tokens, sequences = batch(samples=0)
    tokens |= {name: np.zeros(n, tokens[name].dtype) for name in tokens}
    token, keep, rollout, train = (list(column) for column in zip(*rows)) if rows else ([],) * 4
    tokens["token"], tokens["keep"] = np.array(token, int), np.array(keep, bool)
    tokens["logp_rollout"], tokens["logp_train"] = np.array(rollout, float), np.array(train, float)
    RecordWriter(tmp_path / "records").write(7, tokens, sequences)
    frame = read(tmp_path)
    for name in ("token", "keep"):
        np.testing.assert_array_equal(frame[name].to_numpy(), tokens[name])
    for name in ("logp_rollout", "logp_train"):
        np.testing.assert_array_equal(frame[name].to_numpy(), tokens[name].astype(np.float32))


def test_a_token_costs_at_most_24_bytes(tmp_path):
    path = RecordWriter(tmp_path / "records").write(1, *batch(samples=512, length=100))
    per_token = path.stat().st_size / 51_200
    print(f"{per_token:.1f} bytes a token")
    assert 5 < per_token < 24


def test_the_background_writer_writes_the_same_files(tmp_path):
    writer = BackgroundWriter(tmp_path / "a" / "records")
    direct = RecordWriter(tmp_path / "b" / "records")
    for step in range(6):  # more than may wait
        writer.write(step, *batch(seed=step))
        direct.write(step, *batch(seed=step))
    writer.flush()
    assert recorded_steps(tmp_path / "a") == list(range(6))
    writer.close()
    pd.testing.assert_frame_equal(read(tmp_path / "a"), read(tmp_path / "b"))


def test_what_the_background_write_raises_is_not_lost(tmp_path):
    writer = BackgroundWriter(tmp_path / "records")
    tokens, sequences = batch()
    del tokens["sample"]
    writer.write(1, tokens, sequences)
    with pytest.raises(TrackingError, match="lacks sample"):
        writer.flush()
    writer.write(2, *batch())
    writer.close()
    assert recorded_steps(tmp_path) == [2]


def test_a_slow_disk_holds_the_run_up_instead_of_filling_its_memory(tmp_path, monkeypatch):
    gate, written = threading.Event(), []

    def slow(self, step, tokens, sequences, likeliest):
        gate.wait(10)
        written.append(step)

    monkeypatch.setattr(RecordWriter, "write", slow)
    writer = BackgroundWriter(tmp_path)
    handed = []
    trainer = threading.Thread(
        target=lambda: [handed.append(step) or writer.write(step, {}, {}) for step in range(5)]
    )
    trainer.start()
    trainer.join(0.3)
    assert handed == [0, 1, 2]  # two wait, the third stands in the door
    gate.set()
    trainer.join(10)
    writer.close()
    assert written == list(range(5))


def test_long_steps_are_cut_into_row_groups_and_weights_are_kept_on_request(tmp_path):
    tokens, sequences = batch(samples=3000, length=100)
    tokens["weight"] = np.linspace(0, 2, 300_000)
    path = RecordWriter(tmp_path / "records").write(1, tokens, sequences)
    assert pq.ParquetFile(path).num_row_groups == 2
    np.testing.assert_array_equal(
        read(tmp_path, columns=["weight"])["weight"], tokens["weight"].astype(np.float32)
    )


def test_rewinding_leaves_nothing_of_the_steps_that_are_taken_again(tmp_path):
    writer = RecordWriter(tmp_path / "records")
    for step in (10, 20, 30):
        writer.write(step, *batch(seed=step))
        (tmp_path / "replay" / f"step-{step:06d}").mkdir(parents=True)
    (tmp_path / "records" / ".tokens-000040.parquet.77.tmp").touch()
    (tmp_path / "replay" / ".step-000040.partial").mkdir()
    rewind(tmp_path, 20)
    assert recorded_steps(tmp_path) == [10, 20]
    assert read_sequences(tmp_path)["step"].unique().tolist() == [10, 20]
    assert [path.name for path in sorted((tmp_path / "replay").iterdir())] == [
        "step-000010",
        "step-000020",
    ]
    assert len(list((tmp_path / "records").iterdir())) == 4
    rewind(tmp_path, None)
    assert recorded_steps(tmp_path) == []
    rewind(tmp_path / "new", None)


def test_a_lazy_view_of_a_step_without_records_says_what_there_is(tmp_path):
    RecordWriter(tmp_path / "records").write(5, *batch())
    with pytest.raises(TrackingError, match="recorded steps: 5"):
        dataset(tmp_path, steps=[4])
