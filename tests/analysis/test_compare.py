"""`alpkit compare`: what differs, what the numbers are, and what is refused and why."""

import json
import sys

import numpy as np
import pytest
import yaml

from alpkit.analysis.compare import compare
from alpkit.cli import main
from alpkit.errors import GridError
from tests.support.synthetic_grid import write_grid


@pytest.fixture(scope="module")
def two_grids(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    write_grid(root, name="one", arms=("grpo", "seq-bypass", "seq-alp"), steps=20)
    write_grid(root, name="two", arms=("grpo", "token-tis"), steps=20)
    return root


@pytest.fixture
def call(monkeypatch, capsys, two_grids):
    monkeypatch.chdir(two_grids)

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["alpkit", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def change(root, grid, arm_digits, **fields):
    for path in (root / "runs" / grid).glob(f"{arm_digits}*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        for name, value in fields.items():
            section, _, key = name.partition("__")
            config[section] = {**config[section], key: value} if key else value
        path.write_text(yaml.safe_dump(config))


def test_two_arms_of_one_grid_differ_in_their_noise_alone(two_grids):
    found = compare(["one:seq-bypass", "one:seq-alp"], root=two_grids)
    assert [item.label for item in found.items] == ["seq-bypass", "seq-alp"]
    assert all(field.startswith("perturbation") for field in found.differences)
    assert found.differences["perturbation.site"] == [None, "layer_input"]
    reward = next(v for v in found.verdicts if v.endpoint == "final_reward")
    assert (reward.arm, reward.control) == ("seq-alp", "seq-bypass")
    # Planted: 0.1 at the last of 20 steps, so 0.1 * 15.5 / 20 over the last ten.
    assert reward.difference == pytest.approx(0.1 * 15.5 / 20, abs=0.01)
    assert found.notes == ()


def test_arms_across_grids_are_paired_by_seed_and_named_by_grid(two_grids):
    found = compare(["one:grpo", "two:token-tis"], root=two_grids)
    assert [item.label for item in found.items] == ["one:grpo", "two:token-tis"]
    assert set(found.differences) >= {"objective.weight.action"}
    assert {len(v.points) for v in found.verdicts} == {3}
    own = found.items[1].cells.set_index("seed")["final_reward"]
    other = found.items[0].cells.set_index("seed")["final_reward"]
    reward = next(v for v in found.verdicts if v.endpoint == "final_reward")
    np.testing.assert_allclose(reward.points, own - other)


def test_a_grid_stands_for_its_arms_and_a_cell_for_itself(two_grids):
    found = compare(["two", "one:seq-alp"], root=two_grids)
    assert [item.label for item in found.items] == ["two:grpo", "two:token-tis", "one:seq-alp"]
    cells = compare(["one:grpo", "run-0201abcdef"], root=two_grids)
    assert [len(item.cells) for item in cells.items] == [3, 1]
    assert cells.items[1].label == "seq-alp (0201abcdef)"
    assert {v.status for v in cells.verdicts} == {"few"}


def test_two_folders_of_one_name_stay_two(two_grids, tmp_path):
    write_grid(tmp_path, name="one", arms=("grpo",), seeds=(0, 1, 2), steps=20)
    here, there = two_grids / "runs/one", tmp_path / "runs/one"
    found = compare([f"{here}:grpo", f"{there}:grpo"])
    assert [item.label for item in found.items] == [f"{here}:grpo", f"{there}:grpo"]
    assert {v.status for v in found.verdicts} == {"equal"}


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("model", "builtin:other", "model: "),
        ("task__digits", 5, "task: "),
        ("rollout__engine", "vllm", "backend: "),
    ],
)
def test_another_question_is_refused_and_named(tmp_path, field, value, named):
    write_grid(tmp_path, name="one", arms=("grpo", "token-tis"), steps=12)
    change(tmp_path, "one", "01", **{field: value})
    with pytest.raises(GridError) as caught:
        compare(["one:grpo", "one:token-tis"], root=tmp_path)
    assert named in caught.value.why
    assert str(value) in caught.value.why
    assert "--force" in caught.value.fix
    forced = compare(["one:grpo", "one:token-tis"], root=tmp_path, force=True)
    assert forced.notes[0].startswith("Not comparable, shown by force.")
    assert str(value) in forced.notes[0]


def test_what_else_differs_and_what_is_missing_is_noted(tmp_path):
    folder = write_grid(tmp_path, name="one", arms=("grpo", "token-tis"), steps=12)
    change(tmp_path, "one", "01", train__lr=1e-3, rollout__prompts=32)
    path = folder / "0100abcdef/cell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "failed"}))
    (folder / "0101abcdef/records/tokens-000001.parquet").write_bytes(b"no")
    text = " ".join(compare(["one:grpo", "one:token-tis"], root=tmp_path).notes)
    assert "differ in 3 things at once" in text
    assert "train.lr" in text
    assert "pairs are looser" in text
    assert "token-tis: 1 cell(s) of 3 not finished, left out." in text
    assert "0101abcdef/records/tokens-000001.parquet" in text


def test_a_config_that_cannot_be_read_is_no_reason_to_believe(tmp_path):
    folder = write_grid(tmp_path, name="one", arms=("grpo", "token-tis"), steps=12)
    for path in folder.glob("01*/config.yaml"):
        path.unlink()
    with pytest.raises(GridError, match="same question") as caught:
        compare(["one"], root=tmp_path)
    assert caught.value.why == "config: that of token-tis cannot be read"


def test_the_command_prints_scores_differences_and_verdicts(call):
    code, out, err = call("compare", "one:seq-bypass", "one:seq-alp")
    assert code == 0
    assert "perturbation.site" in out
    assert "seq-alp − seq-bypass, final reward: +0.07" in out
    assert err == ""


def test_the_command_speaks_json(call):
    code, out, _ = call("compare", "one:grpo", "two:grpo", "--json")
    data = json.loads(out)
    assert code == 0
    assert [item["label"] for item in data["items"]] == ["one:grpo", "two:grpo"]
    assert data["differences"] == {}
    assert {v["status"] for v in data["verdicts"]} == {"equal"}
    assert data["scores"][0]["n"] == 3


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("one:grpo",), "nothing to compare"),
        (("one:grpo", "one:grpo"), "nothing to compare"),
        (("one:gspo", "two:grpo"), "no arm 'gspo' in grid one"),
        (("one:grpoo", "two:grpo"), "did you mean 'grpo'?"),
        (("three:grpo", "two:grpo"), "no run 'three'"),
        (("three", "two:grpo"), "no run 'three'"),
    ],
)
def test_bad_names_are_readable_errors(call, args, said):
    code, out, err = call("compare", *args)
    assert (code, out) == (2, "")
    assert said in err
