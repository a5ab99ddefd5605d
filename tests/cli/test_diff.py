"""`alpkit diff`: cells, arms and files side by side; everything that differs and nothing else."""

import json

import pytest
import yaml

from alpkit.config import expand, load_ablation
from alpkit.launch import Options, run_grid

FAKE = "tests.support.fake_trainer:train_cell"


@pytest.fixture
def grid(workplace):
    data = {
        "name": "small",
        "base": {"train": {"steps": 3}},
        "arms": ["grpo", {"preset": "grpo", "name": "fast", "train": {"lr": 1e-3}}],
        "seeds": [0, 1],
    }
    (workplace / "grid.yaml").write_text(yaml.safe_dump(data))
    (workplace / "runs/small").mkdir(parents=True)
    (workplace / "runs/small/fixed").touch()
    grid = expand(load_ablation("grid.yaml"))
    run_grid(grid, Options(launcher="inline", trainer=FAKE))
    return grid


def test_cells_arms_and_files_are_the_same_thing_by_other_names(grid, call):
    first = grid.cells[0].cell_id
    names = ["small:grpo", first, f"runs/small/{first}", f"runs/small/{first}/config.yaml"]
    for name in [*names, "grid.yaml:grpo"]:
        code, out, err = call("diff", "small:fast", name)
        assert code == 0
        assert out.splitlines()[0].split() == ["config", "small:fast", name]
        assert [line.split() for line in out.splitlines()[1:]] == [["train.lr", "0.001", "2e-05"]]
        assert "1 field differs; numbers change by 1 of them" in err
    assert "the two have the same configuration" in call("diff", first, "grid.yaml:grpo")[2]


def test_the_seed_tells_two_cells_apart(grid, call):
    _, out, _ = call("diff", grid.cells[0].cell_id, grid.cells[2].cell_id, "--json")
    told = json.loads(out)
    assert told["differences"] == {"seed": [0, 1]}
    assert told["a"]["cell_id"] == grid.cells[0].cell_id


def test_what_changes_no_number_says_so(grid, call, workplace):
    text = (workplace / "grid.yaml").read_text()
    (workplace / "other.yaml").write_text(
        text.replace("base:", "base:\n  hardware: {eval_batch: 7}")
    )
    _, out, err = call("diff", "grid.yaml:grpo", "other.yaml:grpo")
    assert "hardware.eval_batch  –               7" in out
    assert "1 field differs, and no number changes by it: they are one cell" in err


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("small", "its arms are: grpo, fast"),
        ("grid.yaml", "name one: grid.yaml:grpo"),
        ("small:gpro", "did you mean 'grpo'?"),
        ("nope", "no run 'nope'"),
    ],
)
def test_a_name_that_is_not_one_configuration_is_refused(grid, call, name, says):
    code, _, err = call("diff", name, "small:grpo")
    assert code == 2
    assert says in err
