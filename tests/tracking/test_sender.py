"""The thread that talks to the store: never waited for, nothing lost, nothing twice."""

import time

import pytest

from alpkit.runs.steps import CellTracker
from alpkit.tracking import MlflowSink, Sender, prepare_store
from tests.tracking.test_tracking import history, new_run


@pytest.fixture
def store(workplace):
    return prepare_store()


@pytest.fixture
def outage(store, monkeypatch):
    """A store whose `log_batch` can be taken away; "late" ones arrive and say that they did not."""
    real, state = store.client.log_batch, {"out": False, "late": False, "calls": 0}

    def log_batch(*args, **kwargs):
        state["calls"] += 1
        if state["late"]:
            real(*args, **kwargs)
        if state["out"]:
            raise OSError("connection refused")
        if not state["late"]:
            real(*args, **kwargs)

    monkeypatch.setattr(store.client, "log_batch", log_batch)
    return state


def until(condition, seconds=10.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.02)


def test_what_an_outage_refused_is_sent_from_the_file_once(store, outage, tmp_path, caplog):
    run_id = new_run(store)
    sender = Sender(store, flush_seconds=0.05)
    tracker = CellTracker(
        tmp_path, on_step=lambda step, values: sender.step(run_id, tmp_path, step, values)
    )
    for step in range(3):
        tracker.log(step, {"reward/mean": step / 64})
    until(lambda: len(history(store, run_id, "reward/mean")) == 3)
    outage.update(out=True, late=True)  # the batch arrives, the answer does not
    tracker.log(3, {"reward/mean": 3 / 64})
    until(lambda: "training goes on" in caplog.text)
    outage.update(late=False)
    started = time.monotonic()
    for step in range(4, 30):
        tracker.log(step, {"reward/mean": step / 64})
    assert time.monotonic() - started < 2.0
    outage.update(out=False)
    assert sender.close(patience=10.0) is None
    assert history(store, run_id, "reward/mean") == [(s, s / 64) for s in range(30)]
    assert "answers again" in caplog.text


def test_more_steps_than_may_wait_are_read_from_the_file(store, monkeypatch, tmp_path):
    monkeypatch.setattr("alpkit.tracking.sender._QUEUE", 5)
    run_id = new_run(store)
    sender = Sender(store, flush_seconds=60.0)
    tracker = CellTracker(
        tmp_path, on_step=lambda step, values: sender.step(run_id, tmp_path, step, values)
    )
    for step in range(20):
        tracker.log(step, {"reward/mean": step / 64})
    assert len(sender._outboxes[run_id].steps) <= 5
    assert sender.close(patience=10.0) is None
    assert history(store, run_id, "reward/mean") == [(s, s / 64) for s in range(20)]


def test_the_last_job_of_a_key_is_done_and_one_that_fails_again(store):
    sender, done = Sender(store, flush_seconds=60.0), []

    def moody():
        done.append("moody")
        if len(done) < 3:
            raise RuntimeError("not now")

    sender.post("a", moody)
    until(lambda: done)
    sender.post("b", lambda: done.append("b"))
    assert sender.close(patience=10.0) is None
    assert done == ["moody", "moody", "moody", "b"]


def test_who_is_in_a_hurry_waits_no_longer_than_he_said(store, tmp_path):
    sender = Sender(store, flush_seconds=60.0)
    sender.post("slow", lambda: time.sleep(30))
    started = time.monotonic()
    assert sender.close(patience=0.5, at_most=0.5) is not None
    assert time.monotonic() - started < 3.0


def test_metrics_that_a_kill_left_without_their_tag_are_not_sent_again(store):
    run_id = new_run(store)
    store.client.log_metric(run_id, "reward/mean", 0.5, timestamp=1, step=7)
    sink = MlflowSink(store.client, store.uri, run_id)
    assert sink.sent == 7
    sink.add(7, {"reward/mean": 0.5})
    sink.add(8, {"reward/mean": 0.25})
    sink.flush()
    assert history(store, run_id, "reward/mean") == [(7, 0.5), (8, 0.25)]
