"""Every grid says before it runs what it will test: controls, a reference, GRPO, else along its axes."""

import re

import pytest

from alpkit.config import expand
from alpkit.config.grid.ablation import load_ablation
from alpkit.errors import ConfigError


@pytest.fixture
def planned(tmp_path):
    def plan(text):
        path = tmp_path / "a.yaml"
        base = "base: {model: builtin:tiny-addition, task: {name: addition, digits: 3}}\n"
        path.write_text(f"name: a\n{base}{text}\n")
        return expand(load_ablation(path))

    return plan


def lines(grid):
    return list(grid.planned_tests())


def test_an_axis_is_compared_with_its_first_value(planned):
    grid = planned(
        "arms: [token-tis]\naxes: {objective.weight.upper: [1.5, 3, 4]}\nseeds: [0, 1, 2]"
    )
    assert [c[:3] for c in grid.comparisons] == [
        ("token-tis upper=3", "token-tis upper=1.5", "axis"),
        ("token-tis upper=4", "token-tis upper=1.5", "axis"),
    ]
    assert lines(grid)[0] == "will be tested: token-tis upper=3 against token-tis upper=1.5"


def test_two_axes_vary_one_at_a_time(planned):
    grid = planned(
        "arms: [token-tis]\naxes: {objective.weight.upper: [2, 3], train.lr: [1.0e-5, 2.0e-5]}\nseeds: [0]"
    )
    found = {c[:2] for c in grid.comparisons}
    assert len(found) == 4
    for arm, control in found:
        ours, theirs = (set(re.findall(r"\S+=\S+", name)) for name in (arm, control))
        assert len(ours - theirs) == 1


def test_values_that_vary_together_are_compared_with_the_first_pair(planned):
    grid = planned(
        "arms: [token-tis]\nzip: {objective.weight.upper: [2, 3], train.lr: [1.0e-5, 2.0e-5]}\nseeds: [0]"
    )
    assert len(grid.comparisons) == 1
    assert grid.comparisons[0].control == grid.arms[0]


def test_a_named_reference_takes_the_place_of_grpo_but_not_of_the_twin(planned):
    grid = planned(
        "arms: [grpo, token-tis, seq-mis, seq-bypass, seq-alp]\nreference: token-tis\nseeds: [0, 1, 2]"
    )
    named = {c.arm: (c.control, c.kind) for c in grid.comparisons}
    assert named == {
        "grpo": ("token-tis", "reference"),
        "token-tis": ("grpo", "method"),
        "seq-mis": ("token-tis", "reference"),
        "seq-bypass": ("token-tis", "reference"),
        "seq-alp": ("seq-bypass", "noise"),
    }


def test_a_reference_with_axes_is_met_at_the_same_values(planned):
    grid = planned(
        "arms: [token-tis, seq-mis]\nreference: token-tis\naxes: {train.lr: [1.0e-5, 2.0e-5]}\nseeds: [0]"
    )
    named = {c.arm: c.control for c in grid.comparisons if c.kind == "reference"}
    assert named == {
        f"seq-mis train.lr={lr}": f"token-tis train.lr={lr}" for lr in ("1e-05", "2e-05")
    }


def test_tests_name_the_family_and_the_rest_is_shown(planned):
    grid = planned(
        "arms: [grpo, token-tis, seq-bypass, seq-alp]\ntests: [seq-alp]\nseeds: [0, 1, 2]"
    )
    assert lines(grid) == [
        "will be tested: seq-alp against seq-bypass",
        "shown without a test: token-tis against grpo",
        "shown without a test: seq-bypass against grpo",
    ]


def test_what_cannot_be_tested_is_said(planned):
    grid = planned("arms: [token-tis, seq-mis]\nseeds: [0, 1]")
    assert lines(grid) == [
        f"cannot be tested: {arm} (no control, no axis with another value; name one with reference: ARM)"
        for arm in ("token-tis", "seq-mis")
    ]
    few = planned("arms: [grpo, token-tis]\nseeds: [0, 1]")
    assert lines(few) == [
        "nothing will be tested: 2 seeds, a test needs 3",
        "would be tested with 3 seeds: token-tis against grpo",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("reference: grpoo", r"a\.yaml:4:12  reference: there is no arm 'grpoo'"),
        ("tests: [token-tis, tis]", r"a\.yaml:4:20  tests: there is no arm 'tis'"),
        ("tests: [grpo]", "tests: 'grpo' has nothing to be tested against"),
    ],
)
def test_names_that_mean_nothing_are_refused(planned, text, what):
    with pytest.raises(ConfigError, match=what):
        planned(f"arms: [grpo, token-tis]\n{text}")
