"""`alpkit run` with data, sets and prompts that cannot be used: one message, and nothing is created."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import alpkit.policy
from tests.policy.test_prompts import DROPS

pytest.importorskip("datasets")

TINY = Path(alpkit.policy.__file__).parent / "assets" / "tiny-addition"
SUMS = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(60)]
UNREADABLE = [*SUMS, {"prompt": "1+4=", "answer": "five"}]
FILE = {"name": "file", "path": "sums.jsonl", "grader": "number"}
FEW = {"items": 4}
SETS = [{"name": "own", "items": 2}, {"name": "own", "items": 3}]


def data(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("rows", "base", "says"),
    [
        (SUMS, {"task": {**FILE, "answer": "gold"}}, "has no column 'gold'"),
        (UNREADABLE, {"task": FILE}, "the grader cannot read 1 of 61 right answers"),
        ([], {"task": FILE}, "has no rows"),
        (SUMS, {"task": {**FILE, "held_out": "none"}}, "none is held out"),
        (SUMS, {"task": {**FILE, "held_out": "all"}, "eval": FEW}, "nothing left to train on"),
        (SUMS, {"task": FILE, "evals": SETS}, "own"),
        (SUMS, {"model": "dropping", "prompt": {"system": "77"}}, "drops the system message"),
    ],
    ids=["column", "gold", "no rows", "no evaluation", "no training", "two sets", "template"],
)
def test_bad_data_is_one_message_before_anything_is_created(call, workplace, rows, base, says):
    (workplace / "sums.jsonl").write_text(data(rows))
    shutil.copytree(TINY, workplace / "dropping")
    (workplace / "dropping" / "chat_template.jinja").write_text(DROPS)
    grid = {"name": "bad", "base": base, "arms": ["grpo", "token-tis"], "seeds": [0, 1]}
    (workplace / "grid.yaml").write_text(yaml.safe_dump(grid))
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    code, out, err = call("run", "grid.yaml")
    told = " ".join(err.replace("│", " ").split())
    assert code == 2, (out, err)
    assert says in told
    assert "Traceback" not in err
    # One fault, told once, although four cells have it.
    assert told.count(says) == 1
    assert {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()} == before
