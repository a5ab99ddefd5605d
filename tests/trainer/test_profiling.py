"""Profiling: one step only, with a trace that can be opened, a table that adds up, and the run's own numbers."""

import gzip
import json

import pytest
import torch

from alpkit.config import RunConfig
from alpkit.runs.folder import RunFolder
from alpkit.runs.steps import CellTracker, read_steps
from alpkit.trainer import profiling, train_cell
from alpkit.trainer.clock import SPAN, Clock
from tests.support.replay_runs import SMALL, merged

SPANS = {"rollout", "logp_old", "update", "diagnostics", "sync", "records"}


def cell(folder, run=train_cell, **changes):
    torch.set_num_threads(1)
    config = RunConfig.model_validate(merged(SMALL, {"train": {"steps": 3}}, changes))
    run(config, folder, CellTracker(folder))
    return RunFolder(folder)


def numbers(folder):
    timed = ("time/", "memory/", "perf/")
    return [
        {key: value for key, value in step.metrics.items() if not key.startswith(timed)}
        for step in read_steps(folder.path)
    ]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    return cell(tmp_path_factory.mktemp("profiled"), profiling.train_cell)


def test_a_profiled_run_has_the_numbers_of_the_plain_one(profiled, tmp_path):
    assert numbers(profiled) == numbers(cell(tmp_path / "plain"))


def test_the_trace_holds_every_span_of_one_step(profiled):
    trace = json.loads(gzip.decompress(profiled.profile_trace.read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    spans = [name.removeprefix(SPAN) for name in names if name.startswith(SPAN)]
    assert set(spans) == SPANS
    assert spans.count("rollout") == 1  # one step, and no other
    assert "aten::mm" in names


def test_the_tables_spans_add_up_to_the_second_step(profiled):
    lines = profiled.profile_table.read_text().splitlines()
    assert lines[0].startswith("Step 2: ")
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in lines[4:]]
    seconds = {row[0].strip("*"): float(row[3]) for row in rows if row[0]}
    assert set(seconds) == SPANS | {"(untimed)"}
    step = next(s.metrics for s in read_steps(profiled.path) if s.step == 2)
    assert sum(seconds.values()) == pytest.approx(step["time/step"], abs=0.005)
    inside, span = {}, ""
    for row in rows:
        span = row[0].strip("*") or span
        if row[1]:
            inside.setdefault(span, {})[row[1]] = float(row[3])
    assert any(name.startswith("aten::") for name in inside["update"])
    for name, operators in inside.items():
        assert sum(operators.values()) <= seconds[name] + 0.005


def test_a_cell_of_one_step_has_that_one_profiled(tmp_path):
    folder = cell(tmp_path, profiling.train_cell, train={"steps": 1})
    assert folder.profile_table.read_text().startswith("Step 1: ")


def test_operators_belong_to_the_span_in_which_they_began():
    clock = Clock()
    left = torch.ones(64, 64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        with clock("update"):
            left @ left
        left.exp()
        with clock("sync"):
            left.sin()
            left.sin()
    found = {
        span: {op.name: op.calls for op in operators}
        for span, operators in profiling.by_span(profiler.events()).items()
    }
    assert found["update"]["aten::mm"] == 1
    assert found["sync"]["aten::sin"] == 2
    assert all("aten::exp" not in operators for operators in found.values())
