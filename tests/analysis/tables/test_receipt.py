"""What was configured and did nothing is a warning."""

import json

import yaml

from alpkit import analysis
from alpkit.analysis.tables.receipt import inactive, swallowed
from tests.support.synthetic_grid import write_grid


def test_noise_that_the_dtype_swallows_is_a_warning(tmp_path):
    folder = write_grid(tmp_path, arms=("seq-bypass", "seq-alp"), seeds=(0,), steps=6)
    for cell in folder.glob("*/metrics.jsonl"):
        lines = [json.loads(line) for line in cell.read_text().splitlines()]
        for line in lines:
            line["noise/realised_ratio"] = 0.28 if "/01" in str(cell) else None
        cell.write_text("".join(json.dumps(line) + "\n" for line in lines))
    frame = analysis.load(folder)
    assert [str(idle) for idle in swallowed(frame)] == [
        "seq-alp: 0.28 of its noise's standard deviation arrived (mean over steps of the worst "
        "layer): the dtype swallows a sigma this small."
    ]


def test_a_filter_that_never_acted_is_a_warning(tmp_path):
    folder = write_grid(tmp_path, arms=("seq-bypass",), seeds=(0,), steps=6)
    (config,) = folder.glob("*/config.yaml")
    data = yaml.safe_load(config.read_text())
    data["rollout"] |= {"filter": {"zero_variance": "drop", "max_prompt": 9}, "overlong": "mask"}
    config.write_text(yaml.safe_dump(data))
    (metrics,) = folder.glob("*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    acted = {"receipt/dropped_groups": 0.0, "receipt/overlong": 0.25, "receipt/long_prompts": 0.0}
    metrics.write_text("".join(json.dumps(line | acted) + "\n" for line in lines))
    told = [idle.words for idle in inactive(analysis.load(folder))]
    assert (
        "its zero-variance drop touched no token in 1 cell(s) × 6 steps: that bound did nothing."
        in told
    )
    assert any(words.startswith("its prompt filter touched no token") for words in told)
    assert not any("overlong" in words for words in told)
