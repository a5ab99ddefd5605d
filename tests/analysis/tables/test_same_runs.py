"""Arms that are the same run are said to be, and how often their bounds acted."""

import json

from alpkit import analysis
from alpkit.analysis.pairs import pairs
from alpkit.analysis.tables.same_runs import in_short, rare_bounds, same_runs


def copy_metrics(root, factor):
    """Give token-tis the steps of grpo, its rewards times `factor`."""
    for seed in (0, 1):
        lines = (root / f"runs/small/000{seed}abcdef/metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line) for line in lines]
        for step in steps:
            if "reward/mean" in step:
                step["reward/mean"] *= factor
                step["receipt/truncated"] = 1e-4
        path = root / f"runs/small/010{seed}abcdef/metrics.jsonl"
        path.write_text("".join(json.dumps(step) + "\n" for step in steps))


def told(root):
    frame = analysis.load("small", root=root)
    return same_runs(frame, pairs(frame))


def test_equal_and_nearly_equal_arms_are_told_with_how_often_the_cap_acted(small_root):
    copy_metrics(small_root, 1.0)
    bound = (
        "the weight truncate (upper 2) touched 0.0100 % of its tokens, so these arms cannot differ"
    )
    assert told(small_root) == [
        f"token-tis and grpo are the same run, every logged step equal: {bound}."
    ]
    copy_metrics(small_root, 1.01)
    (near,) = told(small_root)
    assert near.startswith("token-tis and grpo are nearly the same run, their metrics differ by 0.")


def test_arms_that_differ_are_not_the_same_run(frame):
    assert same_runs(frame, pairs(frame)) == []
    assert rare_bounds(frame) == ["seq-mis: the weight mask (upper 2) touched none of its tokens."]


def test_many_sentences_are_cut_short():
    assert in_short(["a", "b"]) == ["a", "b"]
    assert in_short(list("abcdef")) == ["a", "b", "c", "And 3 more of this kind."]
