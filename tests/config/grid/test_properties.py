import json
import math
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from alpkit.config import PRESETS, Grid, RunConfig, dump_yaml, expand, load_ablation
from alpkit.config.files.yaml import parse_yaml
from alpkit.errors import ConfigError

# Axes that act on every arm, so that the number of cells is known.
AXES = {
    "rollout.lag": st.integers(0, 9),
    "rollout.temperature": st.floats(0.1, 2.0),
    "train.lr": st.floats(1e-8, 1e-2),
    "train.updates_per_rollout": st.sampled_from([1, 2, 4, 8, 16]),
    "rollout.weights": st.sampled_from(["float32", "int8", "int4"]),
    "model": st.sampled_from(["on", "1e-5", "010", "a: b", "builtin:tiny-addition"]),
    "objective.log_ratio_clamp": st.tuples(st.floats(-60, -1), st.floats(1, 60)).map(list),
}
TWINS = {"seq-alp": "seq-bypass", "token-alp": "token-bypass", "geo-alp": "geo-alp sigma=0"}
# Some released scripts differ by the clamp alone, which is an axis here: their cells would merge.
ARMS = sorted(name for name in PRESETS if not name.startswith("paper/"))


def values(key: str) -> st.SearchStrategy[list[Any]]:
    return st.lists(AXES[key], min_size=1, max_size=3, unique_by=json.dumps)


@st.composite
def ablations(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(sorted(AXES)), unique=True, max_size=3))
    return {
        "name": "random",
        "arms": draw(st.lists(st.sampled_from(ARMS), min_size=1, max_size=4, unique=True)),
        "axes": {key: draw(values(key)) for key in keys},
        "seeds": draw(st.lists(st.integers(0, 2**31), min_size=1, max_size=3, unique=True)),
    }  # fmt: skip


def expanded(content: dict[str, Any]) -> Grid:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(json.dumps(content))
        return expand(load_ablation(path))


@settings(max_examples=60, deadline=None)
@given(ablations())
def test_a_random_grid_has_every_cell_once(content: dict[str, Any]) -> None:
    grid = expanded(content)
    arms = set(content["arms"])
    added = {twin for arm, twin in TWINS.items() if arm in arms} - arms
    combinations = math.prod(len(v) for v in content["axes"].values())
    assert len(grid.cells) == (len(arms) + len(added)) * combinations * len(content["seeds"])
    assert len({c.cell_id for c in grid.cells}) == len(grid.cells)
    assert len({(c.arm, c.seed) for c in grid.cells}) == len(grid.cells)
    assert len(grid.controls) == combinations * len(arms & TWINS.keys())
    for cell in grid.cells:
        fields = cell.config.model_dump(mode="json")
        for key, value in cell.axes.items():
            found: Any = fields
            for part in key.split("."):
                found = found[part]
            assert found == value


@settings(max_examples=30, deadline=None)
@given(ablations(), st.randoms())
def test_the_order_of_axes_arms_and_seeds_changes_no_id(
    content: dict[str, Any], random: Any
) -> None:
    shuffled = dict(content)
    for key in ("arms", "seeds"):
        shuffled[key] = random.sample(content[key], len(content[key]))
    shuffled["axes"] = dict(random.sample(list(content["axes"].items()), len(content["axes"])))
    a, b = expanded(content), expanded(shuffled)
    assert sorted(c.cell_id for c in a.cells) == sorted(c.cell_id for c in b.cells)
    assert a.grid_id == b.grid_id


@settings(max_examples=30, deadline=None)
@given(ablations())
def test_config_to_yaml_and_back_is_the_identity(content: dict[str, Any]) -> None:
    for cell in expanded(content).cells[:4]:
        read = RunConfig.model_validate(parse_yaml(dump_yaml(cell.config), "f.yaml").data)
        assert read == cell.config
        assert read.cell_id() == cell.cell_id


WORDS = [
    "grpo", "seq-alp", "preset", "name", "arm", "train", "train.lr", "perturbation", "rollout.engine", "hf", "seed",
    "objective", "weight", "objective.weight", "layers", "", ".", "a.", "auto",
]  # fmt: skip
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=6,
)
SECTIONS = ["question", "base", "arms", "axes", "zip", "include", "exclude", "seeds", "launch"]


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(SECTIONS), JUNK, max_size=4))
def test_junk_expands_or_is_a_config_error(content: dict[str, Any]) -> None:
    good = {"name": "junk", "arms": ["grpo", "seq-alp"], "axes": {"train.lr": [0.1]}}
    try:
        expanded({**good, **content})
    except ConfigError as error:
        assert "a.yaml" in str(error)  # noqa: PT017 - either outcome is right
