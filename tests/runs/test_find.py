"""What a RUN_ID may be, and which grids there are."""

import pytest

from alpkit.errors import GridError
from alpkit.runs.find import Target, list_grids, resolve
from alpkit.runs.folder import GridFolder
from alpkit.runs.states import CellRecord
from tests.support.bare_grids import make_grid


@pytest.fixture
def two_grids(tmp_path):
    older = make_grid(
        tmp_path,
        "alpha",
        "2026-01-01",
        parent="feed01",
        cells=[("aa11", "beef01"), ("ab22", "beef02")],
    )
    newer = make_grid(tmp_path, "beta", "2026-01-02", parent="feed02", cells=[("bb11", "cafe01")])
    return tmp_path, older, newer


@pytest.mark.parametrize(
    ("text", "grid", "cell"),
    [
        ("feed01", "alpha", None),
        ("beef02", "alpha", "ab22"),
        ("ab22", "alpha", "ab22"),
        ("latest", "beta", None),
        ("alpha", "alpha", None),
        ("alp", "alpha", None),
        ("cafe", "beta", "bb11"),
        ("runs/alpha", "alpha", None),
        ("runs/alpha/aa11", "alpha", "aa11"),
    ],
)
def test_run_ids_resolve_in_the_documented_order(two_grids, text, grid, cell):
    root, _, _ = two_grids
    assert resolve(text, root) == Target(root / "runs" / grid, cell)


def test_an_exact_id_wins_over_a_grid_that_is_called_the_same(tmp_path):
    one = make_grid(tmp_path, "one", "2026-01-01", parent="two")
    two = make_grid(tmp_path, "two", "2026-01-02", parent="xyz")
    assert resolve("two", tmp_path) == Target(one)
    assert resolve("xyz", tmp_path) == Target(two)


def test_a_grid_called_latest_is_reached_by_its_folder(tmp_path):
    make_grid(tmp_path, "latest", "2026-01-01", parent="p1")
    newer = make_grid(tmp_path, "newer", "2026-01-02", parent="p2")
    assert resolve("latest", tmp_path) == Target(newer)


def test_an_ambiguous_prefix_lists_what_it_could_mean(two_grids):
    root, _, _ = two_grids
    with pytest.raises(GridError) as caught:
        resolve("feed", root)
    assert "names 2 runs" in caught.value.what
    assert "runs/alpha" in caught.value.why
    assert "runs/beta" in caught.value.why
    assert caught.value.exit_code == 2


def test_an_unknown_id_lists_what_exists(two_grids, tmp_path):
    root, _, _ = two_grids
    with pytest.raises(GridError, match="no run 'nope'") as caught:
        resolve("nope", root)
    assert caught.value.why == "grids here: beta, alpha"
    with pytest.raises(GridError, match="no grid has run here"):
        resolve("latest", tmp_path / "elsewhere")
    with pytest.raises(GridError, match="no run ''"):
        resolve("", root)


def test_a_damaged_manifest_does_not_hide_the_other_grids(two_grids):
    root, older, newer = two_grids
    GridFolder(newer).manifest.write_text('{"cells": [')
    assert resolve("latest", root) == Target(older)
    assert [grid.name for grid in list_grids(root)] == ["alpha"]


def test_retired_cells_stay_reachable(tmp_path):
    gone = CellRecord("old1", "grpo", 0, "g", run_id="dead01", state="finished")
    folder = make_grid(tmp_path, "g", "2026-01-01", parent="p", retired=[gone])
    assert resolve("dead01", tmp_path) == Target(folder, "old1")
