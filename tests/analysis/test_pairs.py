"""Pairs name what differs between an arm and what it is compared with."""

from alpkit import analysis
from alpkit.analysis.compare import compare
from alpkit.analysis.pairs import Pair, pairs
from alpkit.config.grid.comparisons import subsets


def test_pairs_name_what_differs(frame):
    named = {(p.arm, p.control): p for p in pairs(frame)}
    assert list(named) == [
        ("gspo", "grpo"),
        ("token-tis", "grpo"),
        ("seq-mis", "grpo"),
        ("seq-bypass", "grpo"),
        ("seq-alp", "seq-bypass"),
    ]
    assert named["seq-alp", "seq-bypass"] == Pair("seq-alp", "seq-bypass", "noise", ("noise",))
    assert named["token-tis", "grpo"].differs == ("importance weight",)
    assert named["gspo", "grpo"].confounded
    assert not named["seq-alp", "seq-bypass"].confounded


def test_sites_without_layers_are_in_no_layer_group():
    noise = {"site": "embedding", "layers": "all", "sigma": {"init": 0.1}}
    configs = {
        "a": {"perturbation": noise},
        "b": {"perturbation": {**noise, "layers": "early"}},
        "c": {"perturbation": None},
    }
    assert subsets(configs, "layers") == []


def test_configs_are_read_while_loading_and_never_again(small_root):
    frame = analysis.load("small", root=small_root)
    for path in small_root.glob("runs/small/*/config.yaml"):
        path.unlink()
    assert pairs(frame) == [Pair("token-tis", "grpo", "noise", ("importance weight",))]
    assert frame.arm_configs["grpo"]["train"]["steps"] == 12
    assert "seed" not in frame.arm_configs["grpo"]


def test_an_arms_config_is_its_first_readable_one(small_root):
    (small_root / "runs/small/0000abcdef/config.yaml").write_text("{")
    found = compare(["small:grpo", "small:token-tis"], root=small_root)
    assert found.notes == (
        "small: 0000abcdef/config.yaml: cannot be read (while parsing a flow node)",
    )
    assert found.differences
    assert all(field.startswith("objective.weight.") for field in found.differences)
