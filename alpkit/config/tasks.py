"""Settings of tasks, prompts and evaluation sets. Imports no torch.

What a task does with its section is in `alpkit.tasks`; a third party's task is a `PluginTaskConfig`.
"""

import re
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from alpkit.config.base import Section

PLUGIN_GROUP = "alpkit.tasks"
"""The entry points under which packages offer tasks: name -> class or function that builds one."""

Grader = Literal["exact", "number", "math"]
HeldOut = Literal["hash", "all", "none"]
MathSet = Literal[
    "builtin",
    "math-500",
    "aime24",
    "aime25",
    "amc23",
    "minerva",
    "olympiadbench",
    "gsm8k",
]


class AdditionConfig(Section):
    name: Literal["addition"] = "addition"
    digits: Annotated[int, Field(ge=1, le=9)] = 3
    """Digits of each operand."""


class ReasoningGymConfig(Section):
    name: Literal["reasoning_gym"]
    dataset: str
    """Any data set of the reasoning-gym package, for example chain_sum."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Arguments of that data set's config."""
    seed: NonNegativeInt = 0
    """Seed of the data set itself; train and eval items are disjoint whatever it is."""


class _Grading(Section):
    """Grading of a response as mathematics; unused by graders that compare text."""

    tail: PositiveInt = 300
    """Words at the end of a response in which the last \\boxed{} is looked for."""
    deadline: PositiveFloat = 5.0
    """Seconds after which one check is killed and scores 0 (the published runs wait 20)."""


class FileConfig(_Grading):
    name: Literal["file"]
    path: str
    """A .parquet, .jsonl, .json or .csv file, or the id of a data set on the hub."""
    prompt: str = "prompt"
    """Column of the question; a.b reaches into a column of mappings, chat messages give the user's text."""
    answer: str = "answer"
    """Column of the right answer."""
    answer_after: str | None = None
    """Keep only what follows the last occurrence of this text in the answer, such as "####"."""
    grader: Grader = "math"
    """math: the last \\boxed{} by value; number: the last number; exact: the whole response, spaces aside."""
    split: str = "train"
    """Split of a hub data set."""
    subset: str | None = None
    """Configuration of a hub data set that has several."""
    revision: str | None = None
    """Revision of a hub data set."""
    held_out: HeldOut = "hash"
    """hash: one question in ten, by its text, is for evaluation only; all: every question; none: no question."""


class MathConfig(_Grading):
    name: Literal["math"]
    set: MathSet = "builtin"
    """builtin: the problems shipped with alpkit; the others are fetched from the hub, for evaluation only."""
    levels: tuple[Annotated[int, Field(ge=1, le=4)], ...] = (1, 2, 3, 4)
    """Levels of the builtin problems: 1 one step, 2 several steps, 3 school competition, 4 university."""

    @model_validator(mode="after")
    def _levels_are_of_the_builtin_set(self) -> Self:
        if not self.levels:
            raise ValueError(
                "levels: an empty list leaves no problem; name at least one of 1, 2, 3, 4"
            )
        if self.set != "builtin" and "levels" in self.model_fields_set:
            raise ValueError(f"levels: {self.set} has none; remove levels, or set: builtin")
        return self


class PluginTaskConfig(Section):
    name: str
    """Name of an entry point in the group alpkit.tasks of an installed package."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Arguments that the task is built with."""


_BUILTIN = {
    get_args(model.model_fields["name"].annotation)[0]: model
    for model in (AdditionConfig, ReasoningGymConfig, FileConfig, MathConfig)
}
TASK_FIELDS = {name: frozenset(model.model_fields) for name, model in _BUILTIN.items()}
"""Which entries a task section may have, by its name."""


def plugin_names() -> tuple[str, ...]:
    """Names of the tasks that installed packages offer, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=PLUGIN_GROUP)}))


# pydantic shows a discriminator by its function's name, and the key it reads is `name`.
def name(value: object) -> object:
    """Give the tag of a task section: its name, or `plugin` for one that a package offers."""
    told = (
        value.get("name", "addition") if isinstance(value, dict) else getattr(value, "name", None)
    )
    return "plugin" if told not in _BUILTIN and told in plugin_names() else told


TaskConfig = Annotated[
    Annotated[AdditionConfig, Tag("addition")]
    | Annotated[ReasoningGymConfig, Tag("reasoning_gym")]
    | Annotated[FileConfig, Tag("file")]
    | Annotated[MathConfig, Tag("math")]
    | Annotated[PluginTaskConfig, Tag("plugin")],
    Discriminator(name),
]


class PromptConfig(Section):
    """Prompt that a question becomes, and strings that end the response beside the model's end tokens."""

    template: Literal["auto", "none"] = "auto"
    """auto: the tokenizer's chat template where it has one; none: plain text, for base models."""
    system: str | None = None
    """The system message; with plain prompts it stands before the question, an empty line between."""
    suffix: str = ""
    """Text put right behind every question, such as a request to box the answer."""
    template_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the chat template, such as enable_thinking: false."""
    stop: tuple[str, ...] = ()
    """Strings that end a response; they are sampled, trained on, and cut off before scoring."""

    @field_validator("stop")
    @classmethod
    def _a_stop_string_has_text(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty stop string would end every response at once; remove it")
        return value

    @model_validator(mode="after")
    def _arguments_need_a_template(self) -> Self:
        if self.template == "none" and self.template_args:
            raise ValueError("template_args: there is no template to give them to; remove them")
        return self


PLAIN_PROMPT = PromptConfig()
"""A question as it stands, in the model's chat template where it has one."""


class EvalConfig(Section):
    """Evaluation on held-out items of the training task. Sets under `evals` take their defaults from it."""

    every: PositiveInt = 10
    """Evaluate after every n-th step; step 0, before training, always."""
    items: PositiveInt = 512
    """Held-out items."""
    k: Annotated[int, Field(ge=1)] = 4
    """Samples per item for avg@k and pass@k."""
    engine: Literal["trainer", "sampler"] = "trainer"
    """trainer: the trained weights themselves; sampler: what the rollout engine makes of them (faster with vllm)."""


class EvalSetConfig(Section):
    """One of several evaluation sets; what it leaves out is as in eval and rollout."""

    name: str
    """Names the set's metrics: eval/<name>/…"""
    task: TaskConfig | None = None
    """Where its items come from; default: the held-out items of the training task."""
    items: PositiveInt | None = None
    """Held-out items; default: all that a finite task has, else eval.items."""
    k: Annotated[int, Field(ge=1)] | None = None
    """Samples per item; default: eval.k."""
    temperature: PositiveFloat | None = None
    """Temperature of the samples; default: rollout.temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus of the samples: legal here, since nothing is trained on them."""
    max_tokens: PositiveInt | None = None
    """Longest response, tokens; default: rollout.max_tokens."""
    every: PositiveInt | None = None
    """Evaluate after every n-th step; default: eval.every."""
    suffix: str | None = None
    """Text put behind every question; default: prompt.suffix."""

    @field_validator("name")
    @classmethod
    def _name_is_part_of_a_key(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", value):
            raise ValueError(
                f"{value!r} cannot be part of a metric's key; use a-z, 0-9, '_', '.', '-'"
            )
        return value
