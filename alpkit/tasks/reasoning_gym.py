"""Any reasoning-gym data set as a task, with the answer extracted and compared exactly.

reasoning-gym's own `score_answer` is not used: it gives partial and sometimes full credit to a
response that merely contains the answer, which a policy learns to exploit. The price: a data set
whose questions have several right answers is scored against the one that it stores.

Usage: `ReasoningGym("chain_sum", {"max_terms": 2})`.
"""

import os
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Protocol, cast

from alpkit.config.tasks import ReasoningGymConfig
from alpkit.errors import ConfigError, PrerequisiteError, did_you_mean
from alpkit.tasks.items import Item, Split, first_in_split
from alpkit.tasks.matching import matches

INSTRUCTION = "Give only the final answer."

# Built from sets of strings (0.1.25): their questions change with Python's hash seed.
_HASH_ORDERED = frozenset(
    {"isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder"}
)
_INDICES = 2**31


class _DataSet(Protocol):
    def __getitem__(self, index: int) -> dict[str, object]: ...
    def __len__(self) -> int: ...


class ReasoningGym:
    """Items of one data set under one fixed seed of its own, addressed by index.

    The run's seed must not become the data set's: reasoning-gym seeds item i with `seed + i`, so
    that neighbouring seeds share nearly all items.
    """

    def __init__(self, dataset: str, params: Mapping[str, object] | None = None, *, seed: int = 0):
        self.name = f"reasoning_gym/{dataset}"
        self._data = _create(dataset, dict(params or {}), seed)
        self._indices = _addressable(self._data, dataset)

    def item(self, split: Split, key: int) -> Item:
        return first_in_split(self.name, split, key, self._candidate)

    def score(self, item: Item, response: str) -> float:
        return float(matches(response, item.answer))

    def _candidate(self, stream: int) -> tuple[str, Item]:
        index = stream % self._indices
        # Some data sets (list_functions, codeio) also draw from the global generator.
        state = random.getstate()
        random.seed(index)
        try:
            entry = self._data[index]
        finally:
            random.setstate(state)
        question = str(entry["question"])
        return question, Item(f"{question}\n{INSTRUCTION}\n", str(entry["answer"]), index)


def load(config: ReasoningGymConfig) -> ReasoningGym:
    """Build the task of a configuration section."""
    return ReasoningGym(config.dataset, config.params, seed=config.seed)


def _create(dataset: str, params: dict[str, object], seed: int) -> _DataSet:
    known = _registry()
    if dataset not in known:
        raise ConfigError(
            f"reasoning-gym has no data set {dataset!r}",
            where="task.dataset",
            why=f"it has {len(known)}, by exact name",
            fix=did_you_mean(dataset, known) or "no name is close",
        )
    if dataset in _HASH_ORDERED and os.environ.get("PYTHONHASHSEED", "random") == "random":
        raise PrerequisiteError(
            f"{dataset} gives other questions in every process",
            where="task.dataset",
            why="reasoning-gym builds it from sets of strings, whose order is Python's hash seed's",
            fix="set PYTHONHASHSEED=0 in the environment of every process",
        )
    dataset_class, config_class = known[dataset]
    allowed = sorted({field.name for field in fields(config_class)} - {"seed"})
    for name in params:
        if name not in allowed:
            raise ConfigError(
                f"{name} is not a parameter of {dataset}",
                where=f"task.params.{name}",
                why="the data set's seed is task.seed" if name == "seed" else "",
                fix=did_you_mean(name, allowed, "allowed"),
            )
    try:
        return cast(_DataSet, dataset_class(config_class(**params, seed=seed)))
    except (AssertionError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{dataset} refuses its parameters",
            where="task.params",
            why=str(error) or type(error).__name__,
            fix=f"allowed: {', '.join(allowed)}",
        ) from error


def _registry() -> Mapping[str, tuple[Callable[..., object], type[Any]]]:
    try:
        # Imported late: it takes seconds. One of its dependencies compares strings by `is`, which Python
        # remarks on when it first compiles that file; nobody here can act on it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise PrerequisiteError(
            "the task reasoning_gym needs the package reasoning-gym",
            where="task.name",
            why=str(error),
            fix='pip install "alpkit[tasks]"',
        ) from error
    return cast(Mapping[str, tuple[Callable[..., object], type[Any]]], DATASETS)


def _addressable(data: _DataSet, dataset: str) -> int:
    """Count the indices with an item: most data sets are endless, some hold a list of `size`."""
    try:
        entry, count = data[_INDICES - 1], _INDICES
    except IndexError:
        entry, count = data[0], len(data)
    if not isinstance(entry["answer"], str) or not entry["answer"].strip():
        raise ConfigError(
            f"{dataset} stores no answer to compare with",
            where="task.dataset",
            why="its answers are judged by a program of its own, which gives partial credit",
            fix="choose a data set with one right answer, such as chain_sum or gcd",
        )
    return count
