"""Cells on a Ray cluster of several nodes: same events and folders as with processes, also when a node is lost."""

import json
import logging
import os
import time

import pytest

from alpkit.errors import TrackingError
from alpkit.launch import Ended, Started, Stepped, run_grid
from alpkit.runs.states import read_grid
from alpkit.runs.steps import read_steps
from alpkit.tracking import prepare_store
from tests.support.fake_trainer import ORDERLY, arm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(
        __import__("importlib.util").util.find_spec("ray") is None, reason="ray is not installed"
    ),
]


def patiently(get_node):
    """Ray gives a node 30 s to start, which are few on a machine that does other things too."""

    def wait(*args):
        until = time.monotonic() + 300
        while True:
            try:
                return get_node(*args)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    return wait


@pytest.fixture(scope="module")
def alive():
    """A head without room for cells, and two nodes with room for one each: the cluster, and its nodes by id."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_agent_register_timeout_ms", "300000")  # a busy machine starts slowly
        import ray
        from ray._private import services
        from ray.cluster_utils import Cluster

        patch.setattr(services, "get_node", patiently(services.get_node))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        patch.setenv("RAY_ADDRESS", made.address)
        yield made, {}
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def cluster(alive):
    made, nodes = alive
    nodes |= {
        node.node_id: node for node in (made.add_node(num_cpus=1) for _ in range(2 - len(nodes)))
    }
    made.wait_for_nodes(180)
    return made, nodes


def history(folder, cells):
    return {c.arm: [(s.step, s.metrics) for s in read_steps(folder / c.cell_id)] for c in cells}


def test_cells_run_on_the_nodes_with_the_events_and_files_of_processes(cluster, make_grid, options):
    arms = [ORDERLY, arm("raise"), arm("exit"), {**ORDERLY, "name": "other", "train": {"lr": 0.5}}]
    grid = make_grid("on-ray", arms)
    events = []
    outcome = run_grid(grid, options(launcher="ray"), events.append)
    states = {r.arm: r.state for r in outcome.records}
    assert states == {
        "orderly": "finished",
        "raise": "failed",
        "exit": "failed",
        "other": "finished",
    }
    by_cell = {}
    for event in events:
        by_cell.setdefault(event.cell_id, []).append(type(event))
    for kinds in by_cell.values():
        assert kinds[0] is Started
        assert kinds[-1] is Ended
        assert kinds.count(Started) == kinds.count(Ended) == 1
    errors = {r.arm: r.error for r in outcome.records}
    assert errors["raise"].startswith("ValueError: the third step is wrong")
    assert errors["exit"].startswith("the worker process ended without a Python exception")
    twin = run_grid(make_grid("on-processes", [ORDERLY]), options(jobs=1))
    told = history(outcome.folder, outcome.records)
    assert told["orderly"] == history(twin.folder, twin.records)["orderly"]
    log = (outcome.folder / outcome.records[1].cell_id / "log.txt").read_text()
    assert "this is stdout" in log
    assert "the third step is wrong" in log
    assert not list(outcome.folder.glob(".shared-*"))
    # A process of its own for every cell, and none of the parent's.
    pids = [json.loads(p.read_text())["pid"] for p in outcome.folder.glob("*/process.json")]
    assert len(set(pids)) == 4
    assert os.getpid() not in pids


@pytest.mark.parametrize("shared", [True, False])
def test_a_grid_ends_complete_when_a_node_is_killed_in_the_middle_of_a_cell(
    cluster, make_grid, options, caplog, monkeypatch, shared
):
    from alpkit.launch import grid as room
    from alpkit.launch import ray as launcher

    made, nodes = cluster
    name = f"lost-{shared}".lower()
    grid = make_grid(name, [arm("slow")], seeds=(0, 1), steps=60)
    folder = options().root / "runs" / name
    folder.mkdir(parents=True)
    (folder / "fixed").touch()
    victim = grid.cells[0].cell_id
    used = launcher.Ray(None, shared=None if shared else False)
    monkeypatch.setattr(room, "_launcher", lambda _grid, _options: used)
    killed = []

    def kill(event):
        if (
            isinstance(event, Stepped)
            and event.cell_id == victim
            and event.step == 21
            and not killed
        ):
            killed.append(used.places[victim])
            made.remove_node(nodes.pop(used.places[victim]), allow_graceful=False)

    with caplog.at_level(logging.WARNING):
        outcome = run_grid(grid, options(), kill)
    assert killed
    assert [(r.state, r.error) for r in outcome.records] == [("finished", None)] * 2
    said = "goes on from the checkpoint of step" if shared else "its folder was on that node alone"
    # The fake trainer's checkpoints are no step folders, which is all that the launcher reads of them.
    said = "it starts over" if shared else said
    assert any(said in r.getMessage() and victim in r.getMessage() for r in caplog.records)
    attempts = (folder / victim / "attempts").read_text().split()
    assert len(attempts) == (2 if shared else 1)
    assert (attempts[-1] != "None") is shared
    # Equal to a grid that nothing happened to.
    twin_grid = make_grid(f"{name}-twin", [arm("slow")], seeds=(0, 1), steps=60)
    twin = options().root / "runs" / f"{name}-twin"
    twin.mkdir(parents=True)
    (twin / "fixed").touch()
    undisturbed = run_grid(twin_grid, options(launcher="inline"))
    for record, other in zip(outcome.records, undisturbed.records, strict=True):
        assert read_steps(folder / record.cell_id) == read_steps(twin / other.cell_id)
    client = prepare_store(options().tracking_uri).client
    steps = [m.step for m in client.get_metric_history(outcome.records[0].run_id, "reward/mean")]
    assert steps == list(range(1, 61))


def test_an_interrupt_leaves_killed_cells_that_go_on(cluster, make_grid, options):
    grid = make_grid("ray-stopped", [arm("sleep"), ORDERLY])

    def interrupt(event):
        if isinstance(event, Stepped) and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, options(launcher="ray", jobs=1), interrupt)
    record = read_grid(options().root / "runs" / "ray-stopped")
    assert [c.state for c in record.cells] == ["killed", "pending"]
    (record.folder / "fixed").touch()
    outcome = run_grid(grid, options(launcher="ray"))
    assert [r.state for r in outcome.records] == ["finished", "finished"]


def test_sqlite_is_refused_where_the_cluster_has_several_hosts(
    cluster, make_grid, options, monkeypatch
):
    import ray

    found = [{"NodeManagerHostname": name, "Alive": True} for name in ("a", "b")]
    monkeypatch.setattr(ray, "nodes", lambda: found)
    grid = make_grid("two-hosts", [ORDERLY])
    with pytest.raises(TrackingError, match="SQLite cannot serve 2 hosts") as error:
        run_grid(grid, options(launcher="ray"))
    assert "http://HOST:5000" in error.value.fix
    assert not (options().root / "runs" / "two-hosts").exists()
