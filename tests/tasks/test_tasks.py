"""Splits, prompt order and evaluation lists, on addition and on toy tasks."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpkit.config.tasks import AdditionConfig
from alpkit.errors import AlpkitError, ConfigError
from alpkit.tasks import (
    Item,
    Split,
    Task,
    eval_items,
    first_in_split,
    load_task,
    split_of,
    train_items,
)
from alpkit.tasks.addition import Addition

KEYS = st.integers(0, 2**63 - 1)


@dataclass
class Toy:
    """A task with `size` questions."""

    size: int
    name: str = "toy"

    def item(self, split: Split, key: int) -> Item:
        return first_in_split(self.name, split, key, self._candidate)

    def score(self, item: Item, response: str) -> float:
        return float(response == item.answer)

    def _candidate(self, stream: int) -> tuple[str, Item]:
        question = str(stream % self.size)
        return question, Item(f"Q{question}", question)


def test_split_is_the_documented_hash():
    digest = hashlib.blake2b(b"addition\n123+456=", digest_size=8).digest()
    expected = "eval" if int.from_bytes(digest, "big") % 10 == 0 else "train"
    assert split_of("addition", "123+456=") == expected


def test_one_question_in_ten_is_held_out():
    held_out = sum(split_of("toy", str(i)) == "eval" for i in range(20_000))
    assert held_out / 20_000 == pytest.approx(0.1, abs=0.01)


@given(KEYS, KEYS, st.integers(1, 9))
def test_items_stay_in_their_split(train_key: int, eval_key: int, digits: int):
    task = Addition(digits=digits)
    train, held_out = task.item("train", train_key), task.item("eval", eval_key)
    assert split_of("addition", train.prompt) == "train"
    assert split_of("addition", held_out.prompt) == "eval"
    assert train == Addition(digits=digits).item("train", train_key)


def test_splits_are_disjoint_over_thousands_of_keys():
    task = Addition(digits=2)  # 8100 questions: both walks come back to the same ones
    train = {task.item("train", key).prompt for key in range(5000)}
    held_out = {task.item("eval", key).prompt for key in range(2000)}
    assert train.isdisjoint(held_out)
    assert len(train) > 3000
    assert len(held_out) > 500


def test_prompts_of_a_step_are_pinned():
    """Recorded runs are compared by prompt: a change here breaks pairing with old runs."""
    assert train_items(Addition(), seed=0, step=1, count=3) == [
        Item("249+335=", "584"),
        Item("715+569=", "1284"),
        Item("453+336=", "789"),
    ]
    held_out = [item.prompt for item in eval_items(Addition(), 3)]
    assert held_out == ["369+540=", "156+478=", "785+297="]


def test_prompts_depend_on_seed_and_step_only():
    task = Addition()
    first = train_items(task, seed=1, step=2, count=64)
    train_items(task, seed=1, step=3, count=7)
    eval_items(task, 5)
    assert train_items(Addition(), seed=1, step=2, count=64) == first
    assert train_items(task, seed=1, step=2, count=16) == first[:16]
    for seed, step in [(2, 1), (1, 3), (0, 3)]:
        other = train_items(task, seed=seed, step=step, count=64)
        assert len(set(other) & set(first)) <= 1


def test_prompts_are_equal_in_another_process():
    code = (
        "from alpkit.tasks import train_items, eval_items\n"
        "from alpkit.tasks.addition import Addition\n"
        "t = Addition()\n"
        "print(train_items(t, 5, 9, 20) + eval_items(t, 20))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    here = train_items(Addition(), 5, 9, 20) + eval_items(Addition(), 20)
    assert outputs == {str(here)}


def test_a_step_repeats_no_prompt_while_the_task_has_enough():
    questions = sum(split_of("toy", str(i)) == "train" for i in range(40))
    prompts = [item.prompt for item in train_items(Toy(40), seed=0, step=0, count=30)]
    assert len(set(prompts)) == len(prompts)
    more = [item.prompt for item in train_items(Toy(40), seed=0, step=0, count=questions + 10)]
    assert len(more) == questions + 10
    assert len(set(more)) <= questions


def test_eval_items_are_distinct_and_a_prefix_of_longer_lists():
    items = eval_items(Addition(), 512)
    assert len({item.prompt for item in items}) == 512
    assert eval_items(Addition(), 100) == items[:100]
    assert all(split_of("addition", item.prompt) == "eval" for item in items)


def test_too_many_eval_items_say_how_many_there_are():
    held_out = sum(split_of("toy", str(i)) == "eval" for i in range(100))
    assert len(eval_items(Toy(100), held_out)) == held_out
    with pytest.raises(ConfigError) as caught:
        eval_items(Toy(100), held_out + 1)
    assert f"only {held_out} were found" in str(caught.value)
    assert f"at most {held_out}" in str(caught.value)
    assert caught.value.where == "eval.items"


def test_a_task_without_eval_questions_is_an_error():
    question = next(str(i) for i in range(100) if split_of("toy", str(i)) == "train")
    with pytest.raises(AlpkitError, match="toy has no eval question"):
        first_in_split("toy", "eval", 0, lambda stream: (question, Item(question, "")))
    toy = Toy(1)
    assert split_of("toy", "0") == "train"
    with pytest.raises(AlpkitError, match="toy has no eval question"):
        eval_items(toy, 1)


def test_load_task_builds_addition():
    task: Task = load_task(AdditionConfig(digits=4))
    assert task == Addition(digits=4)
    assert task.name == "addition"
