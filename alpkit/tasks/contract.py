"""The contract of a task, as a check that anyone can run on their own.

    from alpkit.tasks.contract import check_task

    def test_my_task_keeps_the_contract():
        check_task("my_package.tasks:Countdown", params={"numbers": 4})

A reward that is wrong looks like learning, so every promise that the trainer relies on is tried out: the
right answer scores 1, an empty, random or foreign one about nothing, training and evaluation share no
question, and two processes with different hash seeds see the same items in the same order.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from random import Random
from typing import cast

from alpkit.errors import AlpkitError
from alpkit.tasks import Item, ListedTask, Task, eval_items, score_all, train_items
from alpkit.tasks.plugins import build

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz ABCXYZ+-*/=.,()"
_CHANCE = 0.05
"""Largest mean reward of answers that know nothing."""
_HASH_SEEDS = ("1", "2")


class ContractError(AlpkitError, AssertionError):
    """A promise that a task does not keep; a failed assertion under pytest."""


def check_task(
    task: str,
    params: Mapping[str, object] | None = None,
    *,
    items: int = 50,
    chance: float = _CHANCE,
    answer: Callable[[str], str] = lambda gold: gold,
) -> None:
    """Try a task's promises; raises `ContractError` for the first that it breaks.

    Parameters
    ----------
    task : an entry point of the group alpkit.tasks, or module:function (or class) that builds the task.
    items : training and evaluation items that are looked at; fewer where a task has fewer.
    chance : mean reward that guessing may reach: 0.5 for a task of yes and no.
    answer : how a response gives the right answer, such as putting it into a box.
    """
    own = _build(task, params or {})
    for kind, ask in (("training", _train), ("evaluation", _held_out)):
        _check_rewards(own, kind, ask(own, items), chance, answer)
    _check_splits(own, items)
    _check_purity(task, dict(params or {}), items)


def _build(task: str, params: Mapping[str, object]) -> Task:
    if ":" not in task:
        return build(task, params)
    module, _, name = task.partition(":")
    return cast(Task, getattr(importlib.import_module(module), name)(**params))


def _train(task: Task, count: int) -> list[Item]:
    return train_items(task, 0, 1, count)


def _held_out(task: Task, count: int) -> list[Item]:
    if isinstance(task, ListedTask):
        return eval_items(task, min(count, len(task.held_out)))
    return eval_items(task, count)


def _check_rewards(
    task: Task, kind: str, items: list[Item], chance: float, answer: Callable[[str], str]
) -> None:
    _require(bool(items), f"there is no {kind} item", "give both splits some")
    oracle = score_all(task, items, [answer(item.answer) for item in items]).rewards
    for item, reward in zip(items, oracle, strict=True):
        _require(
            reward == 1.0,
            f"the right answer scores {reward:g}, not 1",
            "compare what is stored with what a response would write",
            f"prompt {item.prompt!r:.80}, answer {item.answer!r:.80}",
        )
    draw = Random(0)
    others = {
        "an empty response": [""] * len(items),
        "random text": ["".join(draw.choices(_ALPHABET, k=12)) for _ in items],
        "the question itself": [item.prompt for item in items],
    }
    for what, responses in others.items():
        rewards = score_all(task, items, responses).rewards
        _require(
            all(0 <= reward <= 1 for reward in rewards),
            f"{what} scores outside [0, 1]",
            "clip the reward to [0, 1]",
        )
        mean = sum(rewards) / len(rewards)
        _require(
            mean <= chance,
            f"{what} scores {mean:.2f} on average",
            "score exactly, without credit for form or length; or raise `chance` if guessing does so well",
        )
    singly = [task.score(item, answer(item.answer)) for item in items[:5]]
    _require(singly == oracle[:5], "score and score_all disagree", "let one call the other")


def _check_splits(task: Task, count: int) -> None:
    train = {item.prompt for step in range(1, 11) for item in train_items(task, 0, step, count)}
    shared = train & {item.prompt for item in _held_out(task, count)}
    _require(
        not shared,
        f"{len(shared)} evaluation questions are also trained on",
        "split by the question's text: alpkit.tasks.first_in_split or split_of",
        f"for example {next(iter(shared), '')!r:.80}",
    )


def _check_purity(task: str, params: dict[str, object], items: int) -> None:
    told = [_elsewhere(task, params, items, seed) for seed in _HASH_SEEDS]
    own = _build(task, params)
    here = _shown(own, items)
    again = _shown(own, items)
    _require(here == again, "the same key gives another item the second time", "keep no state")
    for seed, there in zip(_HASH_SEEDS, told, strict=True):
        _require(
            there == here,
            f"a process with PYTHONHASHSEED={seed} sees other items",
            "draw from random.Random(key), and never from the order of a set or a global generator",
        )


def _shown(task: Task, items: int) -> list[list[str]]:
    found = [*train_items(task, 3, 2, items), *_held_out(task, items)]
    keyed = [task.item("train", key) for key in (0, 1, 12345678901)]
    return [[item.prompt, item.answer] for item in [*found, *keyed]]


def _elsewhere(task: str, params: dict[str, object], items: int, hash_seed: str) -> list[list[str]]:
    code = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        "from alpkit.tasks import contract as c; task, params, items = json.loads(sys.argv[2]); "
        "print(json.dumps(c._shown(c._build(task, params), items)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(sys.path), json.dumps([task, params, items])],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
    )
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    _require(
        done.returncode == 0,
        "the task cannot be built in another process",
        "importing its module and calling it with the same params must be enough",
        last,
    )
    shown: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return shown


def _require(kept: bool, broken: str, fix: str, seen: str = "") -> None:
    if not kept:
        raise ContractError(broken, where="task contract", why=seen, fix=fix)
