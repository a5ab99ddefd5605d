"""A method in a file of its own is a preset: same cells, same refusals, same card."""

import pytest

from alpkit.config import expand, load_ablation
from alpkit.config.cards import card
from alpkit.config.grid.own_methods import load_method
from alpkit.errors import ConfigError

METHOD = """\
name: capped
preset: seq-alp
objective: {surrogate: {epsilon_high: 1.0}}
formula: clip(prod rho), band [0.5, 2]
"""
GRID = "name: g\nmethods: [methods/my.yaml]\narms: [grpo, capped]\n"


@pytest.fixture
def grid(tmp_path):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "my.yaml").write_text(METHOD)
    (tmp_path / "grid.yaml").write_text(GRID)
    return tmp_path / "grid.yaml"


def test_an_arm_names_a_method_of_a_file_that_lies_beside_the_grid(grid):
    inline = grid.with_name("inline.yaml")
    inline.write_text(
        "name: g\narms: [grpo, {preset: seq-alp, name: capped, "
        "objective: {surrogate: {epsilon_high: 1.0}}}]\n"
    )
    own, same = expand(load_ablation(grid)), expand(load_ablation(inline))
    assert [c.cell_id for c in own.cells] == [c.cell_id for c in same.cells]
    assert own.arms[0] == "grpo"
    assert own.arms[-1] == "capped"
    assert own.cells[-1].config.objective.surrogate.epsilon_high == 1.0
    # The control of a perturbed method is found for a method of one's own too.
    assert set(own.controls) == {"capped"}


def test_an_arm_overrides_a_method_of_its_own(grid):
    grid.write_text(
        "name: g\nmethods: [methods/my.yaml]\n"
        "arms: [{preset: capped, name: low, objective: {surrogate: {epsilon_low: 0.1}}}]\n"
    )
    surrogate = expand(load_ablation(grid)).cells[-1].config.objective.surrogate
    assert (surrogate.epsilon_low, surrogate.epsilon_high) == (0.1, 1.0)


def test_every_fault_of_a_method_file_is_listed_where_it_stands(grid):
    (grid.parent / "methods" / "my.yaml").write_text(
        "name: grpo\npreset: seq-alq\nobjective: {surrogat: {}}\nformla: x\n"
    )
    grid.write_text("name: g\nmethods: [methods/my.yaml, no.yaml]\narms: [grpo, capped]\n")
    with pytest.raises(ConfigError) as caught:
        load_ablation(grid)
    text = str(caught.value)
    for part in (
        "methods/my.yaml:1:7  'grpo' is a preset of the package",
        "methods/my.yaml:2:9  'seq-alq' is not a preset",
        "methods/my.yaml:3:13  objective.surrogat is not a field of objective",
        "methods/my.yaml:4:1  formla is not a field of a method",
        "grid.yaml:2:28  methods: there is no file no.yaml",
    ):
        assert part in text
    # The arm is not called unknown while its file cannot be read.
    assert "'capped'" not in text


def test_an_error_in_a_cell_points_into_the_method_file(grid):
    (grid.parent / "methods" / "my.yaml").write_text(
        "name: capped\nobjective: {weight: {action: truncate, upper: 2.0}}\n"
    )
    grid.write_text(
        "name: g\nmethods: [methods/my.yaml]\n"
        "arms: [{preset: capped, name: noisy, perturbation: {site: layer_input}}]\n"
    )
    with pytest.raises(ConfigError, match=r"methods/my\.yaml:2:\d+.*correct the same drift twice"):
        expand(load_ablation(grid))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("formula: x\n", "sets nothing"),
        ("name: a b\npreset: grpo\n", "'a b' cannot name a method"),
        ("objective: [1]\n", "objective: wanted a mapping, got a list"),
        ("preset: seq-alp\nobjective: {weight: {action: mask}}\n", "count the mismatch twice"),
    ],
)
def test_a_method_file_that_will_not_do_is_refused(tmp_path, text, message):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_method(path)
    assert message in str(caught.value)


def test_two_files_may_not_define_one_method(grid):
    grid.with_name("other.yaml").write_text(METHOD)
    grid.write_text("name: g\nmethods: [methods/my.yaml, other.yaml]\narms: [capped]\n")
    with pytest.raises(ConfigError, match="two files define the method 'capped'"):
        load_ablation(grid)


def test_an_unknown_arm_is_offered_the_methods_of_the_files(grid):
    grid.write_text(GRID.replace("capped", "caped"))
    with pytest.raises(ConfigError, match="did you mean 'capped'"):
        load_ablation(grid)


def test_the_name_is_the_file_s_and_the_card_shows_what_was_said(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("preset: token-tis\nobjective: {weight: {upper: 3.0}}\nsource: notes of May\n")
    shown = card(str(path))
    assert shown.name == "mine"
    assert "truncate, mismatch, token, <= 3" in shown.text
    assert "notes of May" in shown.text
    assert "avoid" not in shown.text
