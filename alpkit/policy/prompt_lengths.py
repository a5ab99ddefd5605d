"""Whether prompts fit: the limit that a run sets for them, and with a response the token budget.

Looks before anything is created, so at a part of the prompts only: of a list the longest by their characters.
"""

from typing import Final

from transformers import PreTrainedTokenizerBase

from alpkit.config.run import RunConfig
from alpkit.errors import ConfigError
from alpkit.policy.loading import encode_prompt
from alpkit.tasks import Item, ListedTask, train_items
from alpkit.tasks.evaluation import Asked

_DRAWN: Final = 64
_LISTED: Final = 256


def check_lengths(tokenizer: PreTrainedTokenizerBase, asked: Asked, config: RunConfig) -> None:
    """Refuse a prompt limit that no prompt keeps, and a token budget below the longest sequence."""
    limit = config.rollout.filter.max_prompt

    def length(item: Item) -> int:
        return len(encode_prompt(tokenizer, item.prompt, config.prompt))

    if limit is not None:
        # That the budget has room for the limit is checked with the configuration.
        if not any(length(item) <= limit for item in _sample(asked, longest=False)):
            raise no_prompt_fits(asked.task.name, limit)
        return
    longest, response = max(map(length, _sample(asked, longest=True))), config.rollout.max_tokens
    budget = config.hardware.micro_batch_tokens
    if budget < longest + response:
        raise ConfigError(
            f"hardware.micro_batch_tokens {budget} is below the longest sequence",
            where="hardware.micro_batch_tokens",
            why=f"a prompt has {longest} tokens and a response up to rollout.max_tokens {response}, and it is a hard "
            "bound on the tokens of one forward",
            fix=f"raise it to {longest + response} or more, lower rollout.max_tokens, or leave long prompts out with "
            "rollout.filter.max_prompt",
        )


def no_prompt_fits(task: str, limit: int) -> ConfigError:
    """The refusal of a limit that leaves no question."""
    return ConfigError(
        f"task {task} has no prompt of at most {limit} tokens",
        where="rollout.filter.max_prompt",
        why="every question that was looked at is longer",
        fix="raise it, or take it out",
    )


def _sample(asked: Asked, *, longest: bool) -> list[Item]:
    """Items of a list by their characters, the longest or the shortest; of any other task, the first that it draws."""
    task = asked.task
    if isinstance(task, ListedTask):
        return sorted(task.train, key=lambda item: len(item.prompt), reverse=longest)[:_LISTED]
    return train_items(task, seed=0, step=1, count=_DRAWN)
