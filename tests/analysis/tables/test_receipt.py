"""What was configured and did nothing is a warning."""

import json

from alpkit import analysis
from alpkit.analysis.tables.receipt import swallowed
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
