"""Choose the rows of each forward: longest first, within a hard token budget.

Where a row goes changes no number: noise and records are by sample, denominators by mini-batch. Not here:
how a packed row is attended to (`alpkit.policy.attention`).
"""

from collections.abc import Sequence

from alpkit.errors import ConfigError


def pack(
    prompts: Sequence[int], responses: Sequence[int], budget: int, aim: int | None = None
) -> list[list[int]]:
    """List the rows of each forward, ascending, for rows of so many prompt and response tokens.

    First-fit decreasing: at most 11/9 of the fewest possible bins. `ConfigError` where a row is longer
    than `budget`. `aim`: no more than so many tokens together where no single row is longer.
    """
    lengths = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    _refuse_longer(lengths, budget)
    budget = _lowered(budget, aim, max(lengths, default=0))
    bins: list[list[int]] = []
    room: list[int] = []
    for row in _longest_first(lengths):
        at = next((i for i, left in enumerate(room) if lengths[row] <= left), len(bins))
        if at == len(bins):
            bins.append([])
            room.append(budget)
        bins[at].append(row)
        room[at] -= lengths[row]
    return sorted(sorted(rows) for rows in bins)


def pack_padded(
    prompts: Sequence[int], responses: Sequence[int], budget: int, aim: int | None = None
) -> list[list[int]]:
    """List the rows of each forward as `pack` does, where prompts are padded on the left and responses on the right."""
    lengths = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    _refuse_longer(lengths, budget)
    budget = _lowered(budget, aim, max(lengths, default=0))
    bins: list[list[int]] = []
    for row in _longest_first(lengths):
        together = [*bins[-1], row] if bins else [row]
        width = max(prompts[i] for i in together) + max(responses[i] for i in together)
        if bins and width * len(together) <= budget:
            bins[-1].append(row)
        else:
            bins.append([row])
    return sorted(sorted(rows) for rows in bins)


def _lowered(budget: int, aim: int | None, longest: int) -> int:
    return budget if aim is None else min(budget, max(aim, longest))


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda row: -lengths[row])


def _refuse_longer(lengths: Sequence[int], budget: int) -> None:
    longest = max(lengths, default=0)
    if longest > budget:
        raise ConfigError(
            f"a sequence of {longest} tokens is longer than hardware.micro_batch_tokens {budget}",
            where="hardware.micro_batch_tokens",
            why="it is a hard bound on the tokens of one forward, prompt included",
            fix=f"raise it to {longest} or more, or lower rollout.max_tokens",
        )
