"""What is on disk is what the frames say; what is broken is named."""

import json

import numpy as np
import pytest

from alpkit import analysis
from alpkit.errors import AlpkitError, TrackingError
from tests.support.synthetic_grid import ARMS, metric_lines


def edit_state(folder, **changes):
    path = folder / "cell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_row_per_cell_in_the_grid_files_order(frame):
    assert frame.arms == list(ARMS)
    assert len(frame.cells) == 18
    assert frame.cells["cell_id"].is_unique
    row = frame.cells[frame.cells["arm"] == "seq-alp"].iloc[0]
    assert (row["site"], row["layers"], row["sigma"]) == ("layer_input", "all", 0.02)
    assert frame.grid.controls["seq-alp"] == "seq-bypass"
    assert frame.missing == ()


def test_steps_hold_every_logged_value_and_nan_for_null(frame):
    own = frame.steps[(frame.steps["arm"] == "gspo") & (frame.steps["seed"] == 2)]
    written = {line["step"]: line for line in metric_lines("gspo", 2, 40)}
    assert own["step"].tolist() == list(range(41))
    np.testing.assert_array_equal(
        own["kl/k3"].to_numpy()[1:], [written[s]["kl/k3"] for s in range(1, 41)]
    )
    assert np.isnan(own["reward/mean"].iloc[0])
    assert own["kl/spike"].isna().sum() == 17


def test_scores_average_over_the_stated_windows(frame):
    row = frame.cells[(frame.cells["arm"] == "grpo") & (frame.cells["seed"] == 1)].iloc[0]
    lines = list(metric_lines("grpo", 1, 40))
    assert row["final_reward"] == pytest.approx(np.mean([x["reward/mean"] for x in lines[31:]]))
    greedy = [lines[s]["eval/greedy"] for s in (20, 30, 40)]
    assert row["eval_greedy"] == pytest.approx(np.mean(greedy))
    assert row["eval_greedy_change"] == pytest.approx(np.mean(greedy) - lines[0]["eval/greedy"])
    assert row["k3_max"] == pytest.approx(max(x["kl/k3"] for x in lines[1:]))


def test_evaluations_inside_the_window_win_when_there_are_enough(tmp_path):
    from pandas import Series

    from alpkit.analysis.seeds.scores import last_evaluations

    values = Series(np.arange(41.0), index=range(41))
    assert last_evaluations(values, 40) == np.mean(range(31, 41))
    assert last_evaluations(values[values.index % 10 == 0], 40) == 30.0
    assert last_evaluations(values[[0, 10]], 40) == 10.0
    assert np.isnan(last_evaluations(values[[0]], 40))


def test_records_are_read_lazily_by_arm_step_and_column(frame):
    tokens = frame.records.tokens(arm="seq-alp", steps=[20], columns=["logp_perturbed"])
    assert list(tokens.columns) == ["cell_id", "arm", "seed", "logp_perturbed"]
    assert len(tokens) == 3 * 24 * 4 * 5
    assert tokens["logp_perturbed"].notna().all()
    assert frame.records.tokens(arm="nobody", columns=["step"]).empty
    assert frame.records.steps(frame.cells["cell_id"].iloc[0]) == [1, 10, 20, 30, 40]


@pytest.mark.parametrize("name", ["latest", "small", "smal", "runs/small"])
def test_a_grid_is_found_by_name_prefix_folder_and_latest(small_root, name):
    assert analysis.load(name, root=small_root).grid.name == "small"


def test_one_cell_can_be_loaded_by_its_run_id(small_root):
    frame = analysis.load("run-0001abcdef", root=small_root)
    assert frame.cells[["arm", "seed"]].to_numpy().tolist() == [["grpo", 1]]
    assert frame.only_cell == "0001abcdef"


def test_an_unknown_run_is_a_readable_error(small_root):
    with pytest.raises(AlpkitError, match="nothing-here"):
        analysis.load("nothing-here", root=small_root)


def test_a_truncated_last_line_is_named_and_the_rest_is_read(small_root):
    path = small_root / "runs/small/0000abcdef/metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-40] + b"\xce")
    frame = analysis.load("small", root=small_root, strict=False)
    assert [item.where for item in frame.missing] == ["0000abcdef/metrics.jsonl:13"]
    assert frame.steps.loc[frame.steps["cell_id"] == "0000abcdef", "step"].max() == 11
    with pytest.raises(TrackingError, match=r"metrics\.jsonl:13"):
        analysis.load("small", root=small_root)


def test_missing_and_damaged_files_are_listed_not_raised(small_root):
    folder = small_root / "runs/small"
    for path in (folder / "0000abcdef/records").glob("*"):
        path.unlink()
    (folder / "0001abcdef/records/tokens-000010.parquet").write_bytes(b"PAR1 no")
    (folder / "0100abcdef/config.yaml").write_text("a: [")
    (folder / "0101abcdef/metrics.jsonl").unlink()
    frame = analysis.load("small", root=small_root, strict=False)
    assert {item.where for item in frame.missing} == {
        "0000abcdef/records",
        "0001abcdef/records/tokens-000010.parquet",
        "0100abcdef/config.yaml",
        "0101abcdef/metrics.jsonl",
    }
    assert str(small_root) not in " ".join(map(str, frame.missing))
    assert len(frame.records.tokens(arm="grpo", columns=["step"])) == 2 * 480


def test_a_killed_cell_has_a_state_and_no_score(small_root):
    folder = small_root / "runs/small/0000abcdef"
    edit_state(folder, state="killed", steps_done=5)
    edit_state(folder.with_name("0001abcdef"), state="running", steps_done=6)
    frame = analysis.load("small", root=small_root)
    assert frame.cells["state"].tolist() == ["killed", "killed", "finished", "finished"]
    assert frame.cells["final_reward"].isna().tolist() == [True, True, False, False]


def test_a_pending_cell_without_a_folder_is_no_fault(small_root):
    manifest = small_root / "runs/small/grid.json"
    data = json.loads(manifest.read_text())
    data["cells"].append(
        {"cell_id": "new", "arm": "gspo", "seed": 0, "axes": {}, "state": "pending"}
    )
    manifest.write_text(json.dumps(data))
    frame = analysis.load("small", root=small_root)
    assert frame.cells.iloc[-1]["state"] == "pending"
    assert frame.missing == ()


def test_rows_that_cannot_be_read_are_named_once_the_tails_are_asked_for(small_root):
    path = small_root / "runs/small/0000abcdef/records/tokens-000010.parquet"
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)  # the footer, at the end, stays whole
    path.write_bytes(data)
    frame = analysis.load("small", root=small_root)
    assert frame.missing == ()
    assert [item.where for item in frame.unread] == ["0000abcdef/records/tokens-000010.parquet"]
    assert "rows cannot be read" in frame.unread[0].what
    # Two seeds at three recorded steps of 480 tokens, less the one file.
    assert frame.pooled["grpo"].levels["token"].n == 5 * 480
