"""Score one held-out set: greedy accuracy, avg@k and pass@k, with the given weights and no noise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alpkit.rollout import Request
from alpkit.runs.evaluations import Counts, item_id
from alpkit.seeds import derive
from alpkit.tasks import Item, Scores, Task, score_all

Answer = Callable[[Sequence[Request], Sequence[Item], float], list[str]]
"""Answers requests about items at a temperature, with the texts that are scored."""


@dataclass(frozen=True)
class Evaluation:
    """Rewards of one set: greedy [item] and sampled [item, k]; solved means a reward of 1."""

    greedy: np.ndarray
    sampled: np.ndarray
    graded: tuple[Scores, ...] = ()

    def metrics(self) -> dict[str, float]:
        """Return scores by their short names, and, where checks can be cut off, how many were."""
        found = {
            "greedy": float(self.greedy.mean()),
            "avg_at_k": float(self.sampled.mean()),
            "pass_at_k": float((self.sampled >= 1).any(axis=1).mean()),
        }
        return found | grading_metrics(*self.graded)

    def counts(self, step: int, name: str, items: Sequence[Item]) -> Counts:
        """Give the counts that the run folder keeps of the set."""
        return Counts(
            step=step,
            set=name,
            samples=self.sampled.shape[1],
            solved=(self.sampled >= 1).sum(axis=1).tolist(),
            reward=[round(float(value), 6) for value in self.sampled.mean(axis=1)],
            greedy=self.greedy.tolist(),
            items=[item_id(item.prompt) for item in items],
        )


def evaluate(
    *,
    task: Task,
    items: Sequence[Item],
    prompts: Sequence[tuple[int, ...]],
    k: int,
    temperature: float,
    seed: int,
    answer: Answer,
    name: str | None = None,
) -> Evaluation:
    """Answer every item greedily and k times at `temperature`.

    The draws depend on (seed, set, item, sample) only: every evaluation of every arm shares them.
    """
    greedy = answer([Request(prompt, 0) for prompt in prompts], items, 0.0)
    purpose = ("eval",) if name is None else ("eval", name)
    requests = [
        Request(prompt, derive(seed, *purpose, index, sample))
        for index, prompt in enumerate(prompts)
        for sample in range(k)
    ]
    repeated = [items[row // k] for row in range(len(requests))]
    sampled = answer(requests, repeated, temperature)
    first = score_all(task, items, greedy)
    many = score_all(task, repeated, sampled)
    return Evaluation(
        np.array(first.rewards), np.array(many.rewards).reshape(len(items), k), (first, many)
    )


def grading_metrics(*graded: Scores) -> dict[str, float]:
    """Count checks that were cut off or broke down; empty for graders that cannot."""
    if any(scores.timeouts is None for scores in graded) or not graded:
        return {}
    return {
        "timeouts": float(sum(scores.timeouts or 0 for scores in graded)),
        "failures": float(sum(scores.failures or 0 for scores in graded)),
    }


def over_sets(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Make every set's metrics, under `eval/<set>/`, and their mean over sets, under `eval/` (of counts: the sum).

    The mean is over sets, whatever their number of items.
    """
    metrics = {
        f"eval/{name}/{stat}": value for name, own in found.items() for stat, value in own.items()
    }
    for stat in dict.fromkeys(stat for own in found.values() for stat in own):
        values = [own[stat] for own in found.values() if stat in own]
        total = stat in ("timeouts", "failures")
        metrics[f"eval/{stat}"] = float(np.sum(values) if total else np.mean(values))
    return metrics
