"""Held-out scores: greedy accuracy, avg@k and pass@k, with the trained weights and no noise."""

from collections.abc import Callable, Sequence

import numpy as np

from alpkit.rollout import Request, Response
from alpkit.seeds import derive
from alpkit.tasks import Item, Task

Generate = Callable[[Sequence[Request], float], list[Response]]


def evaluate(
    *,
    task: Task,
    items: Sequence[Item],
    prompts: Sequence[tuple[int, ...]],
    k: int,
    temperature: float,
    seed: int,
    generate: Generate,
    decode: Callable[[Response], str],
) -> dict[str, float]:
    """eval/greedy, eval/avg_at_k and eval/pass_at_k over `items` (rewards in [0, 1]; solved means 1).

    The draws depend on (seed, item, sample) only: every evaluation of every arm shares them.
    """
    greedy = generate([Request(prompt, 0) for prompt in prompts], 0.0)
    requests = [
        Request(prompt, derive(seed, "eval", index, sample))
        for index, prompt in enumerate(prompts)
        for sample in range(k)
    ]
    sampled = generate(requests, temperature)
    rewards = np.array(
        [task.score(items[row // k], decode(response)) for row, response in enumerate(sampled)]
    ).reshape(len(items), k)
    greedy_rewards = [task.score(item, decode(r)) for item, r in zip(items, greedy, strict=True)]
    return {
        "eval/greedy": float(np.mean(greedy_rewards)),
        "eval/avg_at_k": float(rewards.mean()),
        "eval/pass_at_k": float((rewards >= 1).any(axis=1).mean()),
    }
