"""Sections that make a task one of several turns, by what answers the model in between. Imports no torch.

What an environment does with its section is in `alpkit.tasks.environments`; a third party's is a
`PluginEnvironmentConfig`. A response is everything behind the first prompt: the model's turns and what the
environment says between them; `rollout.max_tokens` bounds all of it.
"""

from importlib.metadata import entry_points
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from alpkit.config.base import Section

ENVIRONMENT_GROUP: Final = "alpkit.environments"
"""The entry points under which packages offer environments: name -> class or function that builds one."""
OUTPUT: Final = "{output}"
"""Stands for a tool's output in `environment.output`."""


NOT_ISOLATED: Final = (
    "the network",
    "files: it reads and writes what you can (as root: what anybody can)",
    "other processes, which it can signal",
    "the number of processes and their memory together",
    "what it leaves running",
)
"""What code reaches in a weak sandbox; CPU and wall-clock time, each process's memory, file size, output and the
environment are limited there too."""


def not_isolated(config: object) -> str:
    """Say in one line what a run's environment leaves open; empty where it isolates or runs no code."""
    weak = isinstance(config, ToolMathConfig) and config.sandbox == "weak"
    return f"the model's code is not isolated from {'; '.join(NOT_ISOLATED)}" if weak else ""


class _Environment(Section):
    name: str
    turns: Annotated[int, Field(ge=2)] = 5
    """Most turns that the model takes in one response."""
    turn_tokens: PositiveInt | None = None
    """Longest turn of the model, tokens; default: all that rollout.max_tokens leaves."""
    reply_tokens: PositiveInt = 256
    """Longest output that comes back to the model, tokens; what is longer is cut."""
    role: Literal["user", "tool"] = "user"
    """Whose message of the chat template the environment's replies are."""
    void: Literal["mask", "keep"] = "mask"
    """A response with a void turn (tool_math: neither code nor an answer): mask leaves it out of the loss, its reward
    still counts in its group; keep trains on it like any other. Counted either way."""
    credit: Literal["response", "turn"] = "response"
    """response: one advantage for the sum of a response's rewards; turn: every turn has the advantage of what is
    earned from it on (arXiv:2402.03300, process supervision: rewards normalised over the group, then summed)."""


class ToolMathConfig(_Environment):
    """Mathematics with Python: the first ```python block of a turn is run, and its output is the next message."""

    name: Literal["tool_math"] = "tool_math"
    sandbox: Literal["strict", "weak"] = "strict"
    """strict: bubblewrap, without network or files; weak: a process with limits only, which is no isolation."""
    seconds: PositiveFloat = 5.0
    """Longest CPU time of one block; by the clock it may take twice as long."""
    memory_mib: Annotated[int, Field(ge=64)] = 256
    """Most memory of one block, MiB."""
    output: str = "```output\n{output}\n```\n"
    """The message that an output comes back in."""
    final_prompt: str = "No more code can be run. Give the final answer within \\boxed{}.\n"
    """Put behind the last output: the turn after it is the last."""
    code_reward: NonNegativeFloat = 0.0
    """Reward of every turn whose code ran without an error, beside the task's reward for the answer."""

    @model_validator(mode="after")
    def _an_output_has_its_place(self) -> Self:
        if self.output.count(OUTPUT) != 1:
            raise ValueError(
                f"output: {OUTPUT} must stand in it once, where the output comes; write output: '{OUTPUT}'"
            )
        return self


class PluginEnvironmentConfig(_Environment):
    name: str
    """Name of an entry point in the group alpkit.environments of an installed package."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Arguments that the environment is built with."""


def environment_names() -> tuple[str, ...]:
    """Names of the environments that installed packages offer, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=ENVIRONMENT_GROUP)}))


# pydantic shows a discriminator by its function's name, and the key it reads is `name`.
def name(value: object) -> object:
    """Give the tag of an environment section: its name, or `plugin` for one that a package offers."""
    told = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return "plugin" if told != "tool_math" and told in environment_names() else told


EnvironmentConfig = Annotated[
    Annotated[ToolMathConfig, Tag("tool_math")] | Annotated[PluginEnvironmentConfig, Tag("plugin")],
    Discriminator(name),
]

ENVIRONMENT_FIELDS: Final = {"tool_math": frozenset(ToolMathConfig.model_fields)}
"""Which entries an environment section may have, by its name."""
