"""Grids in other places: copied to another folder, with a store that moved, or where nothing may be written."""

import contextlib
import functools
import os
import platform
import shutil
import subprocess
import sys

import pytest
import yaml

from alpkit import analysis
from alpkit.config import expand, load_ablation
from alpkit.errors import TrackingError
from alpkit.launch import Options, run_grid
from alpkit.runs.states import read_grid
from alpkit.tracking import prepare_store
from tests.support import kills
from tests.support.fake_trainer import ORDERLY, arm

FAKE = "tests.support.fake_trainer:train_cell"
ALL = list(range(1, 7))


def launch(place, uri):
    file, arms = place / "moved.yaml", [ORDERLY, arm("raise")]
    base = {"train": {"steps": 6}}
    file.write_text(yaml.safe_dump({"name": "moved", "base": base, "arms": arms, "seeds": [0]}))
    options = Options(root=place, tracking_uri=uri, launcher="inline", trainer=FAKE)
    return run_grid(expand(load_ablation(file)), options)


def steps(uri, run_id):
    history = prepare_store(uri).client.get_metric_history(run_id, "reward/mean")
    return [metric.step for metric in history]


@pytest.fixture
def begun(tmp_path, empty_store):
    """A grid of which one cell finished and one failed at step 3, and the folder that it lies in."""
    place = tmp_path / "here"
    place.mkdir()
    shutil.copy(empty_store, place / "mlflow.db")
    return place, launch(place, f"sqlite:///{place}/mlflow.db")


def test_a_folder_that_was_copied_to_another_machine_goes_on_there(
    begun, tmp_path, empty_store, monkeypatch
):
    place, first = begun
    there = tmp_path / "another machine"
    shutil.copytree(place, there)
    shutil.rmtree(place)
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    (there / "runs" / "moved" / "fixed").touch()
    # MLflow writes down where artifacts lie: a copied database would write to the other machine's folder.
    with pytest.raises(TrackingError, match="tracking store has been moved") as caught:
        launch(there, f"sqlite:///{there}/mlflow.db")
    assert "--tracking-uri" in caught.value.fix
    uri = f"sqlite:///{tmp_path}/new.db"
    shutil.copy(empty_store, tmp_path / "new.db")
    second = launch(there, uri)
    assert second.folder == there / "runs" / "moved"
    assert second.unsent is None
    assert [r.state for r in second.records] == ["finished", "finished"]
    assert second.skipped == (first.records[0].cell_id,)
    assert [steps(uri, r.run_id) for r in second.records] == [ALL, ALL]
    frame = analysis.load("moved", root=there, strict=False)
    assert sorted(frame.cells["steps_done"]) == [6, 6]
    # The fake trainer records no tokens; of its metrics nothing is missing.
    assert {item.what.partition(";")[0] for item in frame.missing} == {"no token records"}
    assert not place.exists()


def test_a_store_that_moved_is_gone_on_with_where_it_is_named(begun, tmp_path):
    place, first = begun
    (place / "mlflow.db").rename(tmp_path / "moved.db")
    uri = f"sqlite:///{tmp_path}/moved.db"
    (first.folder / "fixed").touch()
    second = launch(place, uri)
    assert second.parent_run_id == first.parent_run_id
    assert [r.run_id for r in second.records] == [r.run_id for r in first.records]
    assert [steps(uri, r.run_id) for r in second.records] == [ALL, ALL]
    assert not (place / "mlflow.db").exists()
    assert read_grid(first.folder).manifest.tracking_uri == uri


def test_a_store_that_is_gone_gets_everything_anew(begun, empty_store):
    place, first = begun
    uri = f"sqlite:///{place}/mlflow.db"
    shutil.copy(empty_store, place / "mlflow.db")
    (first.folder / "fixed").touch()
    second = launch(place, uri)
    assert [r.state for r in second.records] == ["finished", "finished"]
    assert [steps(uri, r.run_id) for r in second.records] == [ALL, ALL]
    store = prepare_store(uri)
    statuses = [store.client.get_run(r.run_id).info.status for r in second.records]
    assert statuses == ["FINISHED", "FINISHED"]
    assert store.client.get_run(second.parent_run_id).info.status == "FINISHED"


NOBODY = 65534


def as_nobody(place, *command):
    """Run a command as a user to whom nothing here belongs; skip where that user can run no Python."""
    paths = [str(kills.REPOSITORY), *(path for path in sys.path if "site-packages" in path)]
    env = {**os.environ, "HOME": "/nonexistent", "PYTHONPATH": os.pathsep.join(paths)}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}"):
        run = functools.partial(
            subprocess.run, user=NOBODY, group=NOBODY, extra_groups=[], env=env, cwd=place,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        with contextlib.suppress(OSError):
            if run([python, "-c", "import pydantic, yaml"]).returncode == 0:
                return run([python, *command])
    return pytest.skip("another user cannot run this Python")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_that_may_only_be_read_is_one_message(tmp_path):
    place = tmp_path / "theirs"
    place.mkdir()
    grid = {"name": "walled", "base": {"train": {"steps": 6}}, "arms": ["grpo"], "seeds": [0]}
    (place / "grid.yaml").write_text(yaml.safe_dump(grid))
    for folder in (place, *list(place.parents)[:-2]):
        folder.chmod(0o755)
    done = as_nobody(place, "-m", "alpkit", "run", "grid.yaml")
    told = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2, told
    assert "Traceback" not in told
    assert "runs/walled cannot be written" in told
    assert [path.name for path in place.iterdir()] == ["grid.yaml"]


@pytest.mark.slow
def test_two_grids_at_once_in_a_fresh_folder_share_one_new_store(tmp_path):
    """Both meet a folder without a store: one makes and migrates it, the other waits."""
    uri, running = f"sqlite:///{tmp_path}/mlflow.db", []
    for name in ("one", "two"):
        file = tmp_path / f"{name}.yaml"
        grid = {"name": name, "base": {"train": {"steps": 6}}, "arms": ["grpo"], "seeds": [0, 1]}
        file.write_text(yaml.safe_dump(grid))
        running.append(kills.launch(tmp_path, file, uri, FAKE))
    assert [child.wait(600) for child in running] == [0, 0], (tmp_path / "stderr.txt").read_text()
    for name in ("one", "two"):
        record = read_grid(tmp_path / "runs" / name)
        assert [cell.state for cell in record.cells] == ["finished", "finished"]
        assert [steps(uri, cell.run_id) for cell in record.cells] == [ALL, ALL]


@pytest.mark.slow
def test_two_launches_of_one_grid_at_once_are_one_launch_and_one_message(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    file = tmp_path / "one.yaml"
    base = {"model": "fake/slow", "train": {"steps": 200}}
    file.write_text(yaml.safe_dump({"name": "one", "base": base, "arms": ["grpo"], "seeds": [0]}))
    running = [kills.launch(tmp_path, file, uri, FAKE) for _ in range(2)]
    codes = sorted(child.wait(600) for child in running)
    said = (tmp_path / "stderr.txt").read_text()
    assert codes == [0, 1], said
    assert "is running already" in said
    (cell,) = read_grid(tmp_path / "runs" / "one").cells
    assert steps(uri, cell.run_id) == list(range(1, 201))
