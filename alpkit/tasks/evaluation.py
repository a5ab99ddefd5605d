"""Resolve a run's task and evaluation sets: build the tasks, choose the items, fill in the defaults.

Usage: `asked = ask(config)`, then `asked.task` and `asked.sets`. The launcher asks before it creates anything.
"""

from typing import NamedTuple

from alpkit.config.run import RunConfig
from alpkit.config.tasks import EvalSetConfig, PromptConfig
from alpkit.errors import AlpkitError, ConfigError
from alpkit.tasks import Item, ListedTask, Task, eval_items, load_task

UNNAMED = "held_out"
"""What the one set of the short form is called where a name is needed."""


class EvalSet(NamedTuple):
    """One evaluation set, with nothing left to default."""

    name: str
    task: Task
    items: tuple[Item, ...]
    k: int
    temperature: float
    top_p: float
    max_tokens: int
    every: int
    prompt: PromptConfig


class Asked(NamedTuple):
    """The task that is trained on and the sets that are evaluated."""

    task: Task
    sets: tuple[EvalSet, ...]

    @property
    def held_out(self) -> tuple[Item, ...]:
        """Items of the first set: what probes are made of."""
        return self.sets[0].items


def ask(config: RunConfig, *, check: bool = False) -> Asked:
    """Build the tasks of a run; `check` also reads every right answer.

    A question that is evaluated is taken out of training, whatever set it comes from. Raises `ConfigError`
    or `PrerequisiteError` for what cannot be asked.
    """
    task = load_task(config.task, check=check)
    # Without sets of their own names, the one set that eval describes.
    configured = config.evals or (EvalSetConfig(name=UNNAMED, items=config.eval.items),)
    sets = []
    for index, entry in enumerate(configured):
        try:
            sets.append(resolve_set(config, entry, task, check=check))
        except AlpkitError as error:
            if config.evals:
                error.where = f"evals[{index}].{error.where}"
            raise
    if isinstance(task, ListedTask):
        task = task.without({item.prompt for entry in sets for item in entry.items})
        if not task.train:
            raise ConfigError(
                f"task {task.name} has nothing left to train on",
                where="task",
                why="every question is held out or evaluated",
                fix="add questions, set held_out: hash or none, or evaluate on others",
            )
    return Asked(task, tuple(sets))


def resolve_set(
    config: RunConfig, entry: EvalSetConfig, task: Task | None = None, *, check: bool = False
) -> EvalSet:
    """Choose a set's items and fill in its defaults; `task` is what an entry without one is about."""
    if entry.task is not None:
        own = load_task(entry.task, check=check)
    else:
        own = task or load_task(config.task, check=check)
    count = entry.items
    if count is None and not isinstance(own, ListedTask):
        count = config.eval.items
    prompt = config.prompt
    if entry.suffix is not None:
        prompt = prompt.model_copy(update={"suffix": entry.suffix})
    return EvalSet(
        name=entry.name,
        task=own,
        items=tuple(eval_items(own, count, where="items" if config.evals else "eval.items")),
        # The configuration allows no 0, so that nothing given is all that `or` passes over.
        k=entry.k or config.eval.k,
        temperature=entry.temperature or config.rollout.temperature,
        top_p=entry.top_p,
        max_tokens=entry.max_tokens or config.rollout.max_tokens,
        every=entry.every or config.eval.every,
        prompt=prompt,
    )
