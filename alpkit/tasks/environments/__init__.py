"""Environments: they answer a model between its turns, and so turn a question into a conversation.

Usage: `environment = load_environment(config.environment)`, then `state = environment.start(item)` and, after each
turn of the model, `environment.reply(state, text)` until it gives None. Nothing here knows tokens: the loop that
samples is `alpkit.rollout.turns`. docs/environments.md describes the environments, and one of your own.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from alpkit.config.environment import EnvironmentConfig, ToolMathConfig
from alpkit.tasks.items import Item


class Reply(NamedTuple):
    """The environment's message: `before`, `text`, `after`, of which only `text` is cut where it is too long."""

    text: str
    before: str = ""
    after: str = ""


@dataclass
class State:
    """One response while it is made: what the environment remembers of it."""

    item: Item
    turns: int = 1
    """Most turns that the model takes; set by whoever samples."""
    turn: int = 0
    """The turn that `reply` is asked about, from 0; the last one is `turns` - 1."""
    answer: str = ""
    """The text that the task scores once the response has ended."""
    void: bool = False
    """A turn led nowhere: the response is left out of the loss where the configuration says so."""
    rewards: list[float] = field(default_factory=list)
    """Rewards of the turns so far, beside the task's for the answer; a turn without an entry has none."""
    counts: Counter[str] = field(default_factory=Counter)
    """Numbers to be logged: any of `COUNTED`."""

    @property
    def last(self) -> bool:
        """Whether the turn is the last that the model may take."""
        return self.turn >= self.turns - 1


COUNTED = ("calls", "failed", "stopped", "answered")
"""Tool calls, those that ended in an error, those that were stopped at a limit, and responses with an answer."""


class Environment(Protocol):
    """Answers the model's turns; what it knows of a response is in the response's `State`."""

    def start(self, item: Item) -> State:
        """Begin a response to `item`."""
        ...

    def reply(self, state: State, text: str) -> Reply | None:
        """Answer the turn `text`, special tokens and stop strings removed; None ends the response."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


@runtime_checkable
class RepliesMany(Protocol):
    """An environment that answers many responses faster at once than one by one."""

    def reply_all(self, states: Sequence[State], texts: Sequence[str]) -> list[Reply | None]:
        """Answer one turn of each response."""
        ...


def reply_all(
    environment: Environment, states: Sequence[State], texts: Sequence[str]
) -> list[Reply | None]:
    """Answer one turn of each response, in whatever way the environment does it best."""
    if isinstance(environment, RepliesMany):
        return environment.reply_all(states, texts)
    return [environment.reply(state, text) for state, text in zip(states, texts, strict=True)]


def load_environment(config: EnvironmentConfig) -> Environment:
    """Build the environment that a configuration section names; what it runs in is started at its first use."""
    if isinstance(config, ToolMathConfig):
        from alpkit.tasks.environments import tool_math

        return tool_math.load(config)
    from alpkit.tasks.plugins import build_environment

    return build_environment(config.name, config.params)
