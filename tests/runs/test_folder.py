"""Names of a run folder, which folders on disk depend on; and no other module knows them."""

import re
from pathlib import Path

from alpkit.runs.folder import (
    GridFolder,
    RunFolder,
    grid_folder,
    grid_folders,
    step_folder,
    step_folders,
)

SOURCE = Path(__file__).parents[2]
# Names in quotes, as a path is built; words for people and names of sections are something else.
NAMES = re.compile(
    r"""["'/]((?:metrics|spikes|evaluations)\.jsonl|cell\.json|grid\.json|config\.yaml|imported\.json|batching\.npy|log\.txt|\.lock)["']"""
    r"""|/ f?["']((records|replay|checkpoint)["']|step-|tokens-|sequences-)"""
)


def test_names_are_those_of_the_folders_that_exist(tmp_path):
    folder = grid_folder(tmp_path, "quickstart")
    assert folder == tmp_path / "runs" / "quickstart"
    grid, run = GridFolder(folder), GridFolder(folder).run("096941a33b")
    paths = [grid.manifest, grid.lock, run.config, run.state, run.metrics, run.spikes]
    paths += [
        run.evaluations,
        run.batching,
        run.imported,
        run.log,
        run.records,
        run.checkpoints,
        run.replay,
    ]
    assert [str(path.relative_to(folder)) for path in paths] == [
        "grid.json",
        ".lock",
        *(f"096941a33b/{name}" for name in ("config.yaml", "cell.json", "metrics.jsonl")),
        *(f"096941a33b/{name}" for name in ("spikes.jsonl", "evaluations.jsonl", "batching.npy")),
        *(f"096941a33b/{name}" for name in ("imported.json", "log.txt")),
        *(f"096941a33b/{name}" for name in ("records", "checkpoint", "replay")),
    ]
    assert run.grid == grid


def test_grids_are_folders_with_a_manifest(tmp_path):
    for name in ("b", "a", "empty"):
        grid_folder(tmp_path, name).mkdir(parents=True)
    for name in ("b", "a"):
        GridFolder(grid_folder(tmp_path, name)).manifest.touch()
    assert [folder.name for folder in grid_folders(tmp_path)] == ["a", "b"]
    assert grid_folders(tmp_path / "nowhere") == []


def test_steps_are_in_the_order_of_numbers_and_half_written_ones_are_none(tmp_path):
    assert step_folder(tmp_path, 10) == tmp_path / "step-000010"
    for step in (1_000_000, 999_999, 10):
        step_folder(tmp_path, step).mkdir()
    (tmp_path / ".step-000020.x7.tmp").mkdir()
    (tmp_path / "step-notes").mkdir()
    assert list(step_folders(tmp_path)) == [10, 999_999, 1_000_000]
    assert step_folders(tmp_path / "nowhere") == {}


def test_a_half_written_checkpoint_is_nothing_to_go_on_from(tmp_path):
    run = RunFolder(tmp_path)
    assert not run.has_checkpoint
    (run.checkpoints / ".step-000010.partial").mkdir(parents=True)
    assert not run.has_checkpoint
    step_folder(run.checkpoints, 10).mkdir()
    assert run.has_checkpoint


def test_no_other_module_spells_a_name_of_a_run_folder():
    files = [
        path
        for folder in ("alpkit", "analysis")
        for path in (SOURCE / folder).rglob("*.py")
        if (SOURCE / "alpkit" / "runs") not in path.parents
        and (SOURCE / "alpkit" / "analysis") not in path.parents
    ]
    spelled = {
        f"{path.relative_to(SOURCE)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if NAMES.search(line)
    }
    assert len(files) > 100
    assert spelled == set()
