"""Tracking: MLflow without holes, and the store that a plain `mlflow ui` opens."""

import base64
import json
import math
import zlib

import pytest

from alpkit.errors import TrackingError
from alpkit.runs.steps import CellTracker, read_steps
from alpkit.tracking import (
    MlflowSink,
    backfill,
    charts_path,
    log_report,
    prepare_store,
    resolve_uri,
)


@pytest.fixture
def store(workplace):
    return prepare_store()


def new_run(store, name="cell"):
    experiment = store.experiment("grid")
    parent = store.open_parent(experiment, "grid", {"alpkit.grid_id": "g1"})
    return store.create_child(
        experiment,
        parent,
        name,
        tags={"alpkit.arm": "grpo", "alpkit.cell_id": "c1"},
        params={"train.lr": 1e-4, "text": "x" * 9000},
    )


def history(store, run_id, key):
    return [(m.step, m.value) for m in store.client.get_metric_history(run_id, key)]


def test_the_argument_wins_over_the_environment_over_the_default(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri() == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert resolve_uri() == "http://server"
    assert resolve_uri("sqlite:///other.db") == "sqlite:///other.db"


def test_mlflow_receives_every_value_in_batches(store, monkeypatch):
    run_id = new_run(store)
    sizes = []
    real = store.client.log_batch
    monkeypatch.setattr(
        store.client,
        "log_batch",
        lambda run, rows, **kw: sizes.append(len(rows)) or real(run, rows, **kw),
    )
    sink = MlflowSink(store.client, store.uri, run_id)
    for step in range(30):
        sink.add(step, {"reward/mean": step / 64} | ({"kl/k3": 0.5} if step != 3 else {}))
    assert sizes == [25 * 2 - 1]
    sink.flush()
    sink.flush()
    assert sizes == [49, 10]
    assert history(store, run_id, "reward/mean") == [(s, s / 64) for s in range(30)]
    assert [s for s, _ in history(store, run_id, "kl/k3")] == [s for s in range(30) if s != 3]
    assert store.client.get_run(run_id).data.tags["alpkit.step"] == "29"


def test_time_flushes_what_25_steps_have_not(store):
    run_id = new_run(store)
    MlflowSink(store.client, store.uri, run_id).add(0, {"reward/mean": 0.25})
    assert history(store, run_id, "reward/mean") == []
    MlflowSink(store.client, store.uri, run_id, flush_seconds=0.0).add(0, {"reward/mean": 0.5})
    assert history(store, run_id, "reward/mean") == [(0, 0.5)]


def test_a_batch_never_exceeds_mlflows_limit(store, monkeypatch):
    run_id = new_run(store)
    sizes = []
    real = store.client.log_batch
    monkeypatch.setattr(
        store.client,
        "log_batch",
        lambda run, rows, **kw: sizes.append(len(rows)) or real(run, rows, **kw),
    )
    sink = MlflowSink(store.client, store.uri, run_id, batch=5)
    for step in range(7):
        sink.add(step, {"reward/mean": 1.0, "kl/k3": 2.0})
    sink.flush()
    assert sizes == [4, 4, 4, 2]
    assert [s for s, _ in history(store, run_id, "kl/k3")] == list(range(7))


def test_a_store_that_fails_keeps_the_buffer_and_flush_raises(store, monkeypatch):
    run_id = new_run(store)
    real = store.client.log_batch
    sink = MlflowSink(store.client, store.uri, run_id)

    def refuse(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(store.client, "log_batch", refuse)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    for step in range(26):
        sink.add(step, {"reward/mean": 0.5})
    with pytest.raises(TrackingError, match="refused") as caught:
        sink.flush()
    assert caught.value.why == "disk full"
    monkeypatch.setattr(store.client, "log_batch", real)
    sink.flush()
    assert [s for s, _ in history(store, run_id, "reward/mean")] == list(range(26))


def test_resuming_sends_what_was_lost_and_nothing_twice(store, tmp_path):
    run_id = new_run(store)
    first = MlflowSink(store.client, store.uri, run_id)
    tracker = CellTracker(tmp_path, on_step=first.add)
    for step in range(28):  # 0-24 are sent, 25-27 die with the process
        tracker.log(step, {"reward/mean": step / 64})
    assert len(history(store, run_id, "reward/mean")) == 25
    second = MlflowSink(store.client, store.uri, run_id)
    backfill(tmp_path, second)
    tracker = CellTracker(tmp_path, on_step=second.add)
    tracker.rewind(20)
    for step in range(21, 32):
        tracker.log(step, {"reward/mean": step / 64})
    second.flush()
    assert history(store, run_id, "reward/mean") == [(s, s / 64) for s in range(32)]
    assert [step for step, _ in read_steps(tmp_path)] == list(range(32))


def test_backfill_rebuilds_a_run_from_its_folder(store, tmp_path):
    tracker = CellTracker(tmp_path)
    tracker.log(0, {"reward/mean": 0.5})
    tracker.log(1, {"reward/mean": math.nan, "kl/k3": 0.25})
    run_id = new_run(store)
    backfill(tmp_path, MlflowSink(store.client, store.uri, run_id))
    assert history(store, run_id, "reward/mean") == [(0, 0.5)]
    assert history(store, run_id, "kl/k3") == [(1, 0.25)]


def test_the_store_is_the_one_that_a_plain_mlflow_ui_opens(store, workplace):
    run_id = new_run(store)
    run = store.client.get_run(run_id)
    experiment = store.client.get_experiment_by_name("grid")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    note = experiment.tags["mlflow.note.content"]
    assert note == f"[Charts of every cell]({charts_path(experiment.experiment_id)})"
    assert experiment.artifact_location == (workplace / "mlartifacts" / "grid").as_uri()
    parent = store.client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["alpkit.kind"] == "grid"
    assert run.data.tags["alpkit.kind"] == "cell"
    assert run.data.params["train.lr"] == "0.0001"
    assert len(run.data.params["text"]) == 500
    store.log_text(run_id, "seed: 0\n", "config.yaml")
    (artifact,) = (workplace / "mlartifacts").rglob("config.yaml")
    assert artifact.read_text() == "seed: 0\n"
    assert run_id in str(artifact)
    assert not (workplace / "mlruns").exists()


def test_the_parent_run_is_reopened_and_experiments_come_back_from_the_bin(store):
    experiment = store.experiment("grid")
    first = store.open_parent(experiment, "grid", {"alpkit.grid_id": "g1"})
    store.set_status(first, "FAILED")
    assert store.open_parent(experiment, "grid", {"alpkit.grid_id": "g2"}) == first
    run = store.client.get_run(first)
    assert run.info.status == "RUNNING"
    assert run.data.tags["alpkit.grid_id"] == "g2"
    store.client.delete_experiment(experiment)
    assert store.experiment("grid") == experiment


def test_a_note_written_by_hand_is_left_alone(store):
    experiment = store.experiment("grid", note="why?")

    def note():
        return store.client.get_experiment(experiment).tags["mlflow.note.content"]

    assert note().endswith(") · why?")
    store.experiment("grid", note="how?")
    assert note().endswith(") · how?")
    store.client.set_experiment_tag(experiment, "mlflow.note.content", "mine")
    store.experiment("grid", note="when?")
    assert note() == "mine"


def test_statuses_and_existence(store):
    run_id = new_run(store)
    assert store.client.get_run(run_id).info.status == "SCHEDULED"
    for status in ("RUNNING", "KILLED", "FINISHED"):
        store.set_status(run_id, status)
        assert store.client.get_run(run_id).info.status == status
    assert store.last_step(run_id) == -1
    sink = MlflowSink(store.client, store.uri, run_id)
    sink.add(4, {"reward/mean": 0.5})
    sink.flush()
    assert store.last_step(run_id) == 4
    store.discard(run_id)
    assert [store.last_step(r) for r in (run_id, "0" * 32, "")] == [None, None, None]


def test_a_report_is_logged_with_its_folders(store, tmp_path):
    run_id = new_run(store)
    report = tmp_path / "reports"
    (report / "figures").mkdir(parents=True)
    (report / "report.html").write_text("<p>")
    (report / "figures" / "a.csv").write_text("1")
    log_report(run_id, report)
    assert [f.path for f in store.client.list_artifacts(run_id, "report")] == [
        "report/figures",
        "report/report.html",
    ]
    assert [f.path for f in store.client.list_artifacts(run_id, "report/figures")] == [
        "report/figures/a.csv"
    ]


def test_a_second_report_leaves_nothing_of_the_first(store, tmp_path):
    run_id = new_run(store)
    report = tmp_path / "reports"
    report.mkdir()
    (report / "old.csv").write_text("1")
    log_report(run_id, report)
    (report / "old.csv").rename(report / "new.csv")
    log_report(run_id, report)
    assert [f.path for f in store.client.list_artifacts(run_id, "report")] == ["report/new.csv"]


def test_a_moved_store_is_refused_before_artifacts_are_lost(
    store, workplace, tmp_path_factory, monkeypatch
):
    store.experiment("grid")
    moved = tmp_path_factory.mktemp("moved")
    (workplace / "mlflow.db").rename(moved / "mlflow.db")
    monkeypatch.chdir(moved)
    with pytest.raises(TrackingError, match="has been moved") as caught:
        prepare_store().experiment("grid")
    assert str(workplace) in caught.value.why


def test_a_store_that_mlflow_cannot_open_is_one_readable_error(workplace):
    with pytest.raises(TrackingError, match="the tracking store refused") as caught:
        prepare_store(f"sqlite:///{workplace}/mlflow.db/in_a_file.db")
    assert caught.value.exit_code == 2
    with pytest.raises(TrackingError, match="refused"):
        prepare_store("file:./mlruns")


def test_a_table_replaces_one_of_the_same_name_and_mlflow_reads_it(store):
    run_id = new_run(store)
    columns = ["step", "text"]
    store.log_table(run_id, columns, [[3, "old"]], "spikes.json")
    store.log_table(run_id, columns, [[17, "1+1=3"], [20, None]], "spikes.json")
    experiment = store.client.get_run(run_id).info.experiment_id
    frame = store.client.load_table(experiment, "spikes.json", run_ids=[run_id])
    assert frame["step"].tolist() == [17, 20]
    assert frame["text"].isna().tolist() == [False, True]


def test_only_the_chosen_metrics_are_sent(store):
    run_id = new_run(store)
    sink = MlflowSink(store.client, store.uri, run_id, metrics=("reward/*",))
    sink.add(0, {"reward/mean": 0.25, "reward/std": 0.5, "kl/k3": 1.0})
    sink.add(1, {"kl/k3": 1.0})
    sink.flush()
    assert store.client.get_run(run_id).data.metrics == {"reward/mean": 0.25, "reward/std": 0.5}
    # A step of which nothing is chosen counts as sent all the same.
    assert store.last_step(run_id) == 1


def test_the_view_of_an_experiment_fits_its_tag_and_begins_with_the_reward(store):
    experiment = store.client.get_experiment(store.experiment("grid"))
    text = experiment.tags["mlflow.sharedViewState.alpkit-arms"]
    assert len(text) < 5000  # what MLflow's databases keep of a tag
    view = json.loads(zlib.decompress(base64.b64decode(text.removeprefix("deflate;"))))
    assert view["groupBy"]["groupByKeys"][0]["groupByData"] == "alpkit.arm"
    names = [section["name"] for section in view["compareRunSections"]]
    assert names[0] == "Reward"
    assert view["compareRunCharts"][0]["metricKey"] == "reward/mean"
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} <= set(names)
