"""Files that are too much: bombs, products, names and numbers without end; each ends in a message, at once."""

import time

import pytest

from alpkit.config import expand, load_ablation
from alpkit.errors import AlpkitError

BOMB = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
ARMS = "name: x\narms: [grpo]\n"
TEN = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"
PRODUCT = (
    ARMS
    + "axes:\n"
    + "".join(
        f"  {field}: {TEN}\n"
        for field in ("train.steps", "train.lr", "eval.k", "eval.items", "rollout.lag", "seed")
    )
)
CASES = {
    "an alias bomb": (BOMB, "more than 50,000 entries"),
    "a huge product": (PRODUCT.replace("  seed", "  rollout.max_tokens"), "1,000,000 cells"),
    "many seeds": (ARMS + f"seeds: [{', '.join(map(str, range(20_000)))}]\n", "say --yes"),
    "a long name": (f"name: {'x' * 5000}\narms: [grpo]\n", "longer than 100 characters"),
    "a name that is taken": ("name: latest\narms: [grpo]\n", "what the newest grid is called"),
    "a long arm": (f"name: x\narms: [{{name: {'x' * 5000}, preset: grpo}}]\n", "at most 100"),
    "absurd steps": (ARMS + "base: {train: {steps: 1000000000000}}\n", "<= 10000000"),
    "5,000 digits": (
        ARMS + f"base: {{train: {{lr: {'9' * 5000}}}}}\n",
        "number of 5000 characters",
    ),
    "5,000 hex digits": (ARMS + f"seeds: [0x{'f' * 5000}]\n", "number of 5002 characters"),
    "a deep nest": (f"name: {'[' * 5000}{']' * 5000}\n", "nested too deep"),
    "a megabyte": (ARMS + "# " + "x" * 1_000_000, "longer than 1,000,000 bytes"),
    "a long text": (ARMS + f"base: {{dtype: {'x' * 5000}}}\n", "dtype: wanted one of"),
    "many faults": (
        ARMS + "base: {" + ", ".join(f"k{i}: 1" for i in range(500)) + "}\n",
        "and 480",
    ),
    "a long question": (ARMS + f"question: {'x' * 5000}\n", "question"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_too_much_is_told_at_once_and_not_echoed(tmp_path, case):
    text, said = CASES[case]
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(AlpkitError) as caught:
        expand(load_ablation(path))
    # Generous: on an idle machine the slowest takes 0.5 s.
    assert time.monotonic() - started < 5.0
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 6000
    assert "xxxxxxxxxx" * 20 not in str(caught.value)


def test_who_means_it_gets_his_cells(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(ARMS + f"axes: {{train.lr: {TEN}}}\nseeds: {list(range(1001))}\n")
    with pytest.raises(AlpkitError, match="10,010 cells"):
        expand(load_ablation(path))
    assert len(expand(load_ablation(path), many=True).cells) == 10_010


def test_an_override_is_not_echoed_either(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(ARMS)
    with pytest.raises(AlpkitError) as caught:
        load_ablation(path, [f"train.steps={'9' * 5000}"])
    assert len(str(caught.value)) < 500
