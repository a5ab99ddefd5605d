r"""Mathematics with Python: the first ```python block of a turn is run, its output is the next message.

A turn with `\boxed{…}` ends the response, whatever code it holds; a turn with neither is void and ends it too. The
turn before the last is followed by a request for the final answer, and in the last turn nothing is run. Only what
the model itself wrote in its last turn is scored, so that no output can forge an answer.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from alpkit.config.environment import OUTPUT, ToolMathConfig
from alpkit.tasks.environments import Reply, State
from alpkit.tasks.items import Item
from alpkit.tasks.math.grader import last_boxed

_CODE: Final = re.compile(r"```python[ \t]*\r?\n(.*?)```", re.DOTALL)
_EVERY_WORD: Final = 1 << 30


class Outcome(Protocol):
    """Outcome of one block of code."""

    @property
    def kind(self) -> str:
        """`ok`, `error` (it failed by itself), or the limit that stopped it."""
        ...

    @property
    def text(self) -> str:
        """The output, or how it ended: what the model reads."""
        ...


class Sandbox(Protocol):
    """Runs code that nobody trusts."""

    def run_all(self, codes: Sequence[str]) -> Sequence[Outcome]:
        """Run every block, each in surroundings of its own; never raises for what the code does."""
        ...

    def close(self) -> None: ...


class Turn(NamedTuple):
    """Contents of a turn: its first block of code, and whether it gives an answer."""

    code: str | None
    answers: bool


def read_turn(text: str) -> Turn:
    r"""Find a turn's first closed ```python block, and whether a \boxed{} closes in it."""
    code = _CODE.search(text)
    return Turn(None if code is None else code[1], last_boxed(text, tail=_EVERY_WORD) is not None)


class ToolMath:
    """Runs the model's code in `sandbox` and hands its output back."""

    def __init__(self, config: ToolMathConfig, sandbox: Sandbox) -> None:
        self._config, self._sandbox = config, sandbox
        self._before, _, self._after = config.output.partition(OUTPUT)

    def start(self, item: Item) -> State:
        return State(item)

    def reply(self, state: State, text: str) -> Reply | None:
        return self.reply_all([state], [text])[0]

    def reply_all(self, states: Sequence[State], texts: Sequence[str]) -> list[Reply | None]:
        codes = [self._take(state, text) for state, text in zip(states, texts, strict=True)]
        outcomes = iter(self._sandbox.run_all([code for code in codes if code is not None]))
        return [
            None if code is None else self._answer(state, next(outcomes))
            for state, code in zip(states, codes, strict=True)
        ]

    def close(self) -> None:
        self._sandbox.close()

    def _take(self, state: State, text: str) -> str | None:
        """Note what the turn is; gives the code to run, None where the response ends."""
        turn = read_turn(text)
        state.rewards.append(0.0)
        state.answer = text if turn.answers else ""
        state.void = not turn.answers and turn.code is None
        state.counts["answered"] += turn.answers
        return None if turn.answers or state.last else turn.code

    def _answer(self, state: State, outcome: Outcome) -> Reply:
        state.counts["calls"] += 1
        if outcome.kind == "ok":
            state.rewards[-1] += self._config.code_reward
        else:
            state.counts["failed" if outcome.kind == "error" else "stopped"] += 1
        now_the_last = state.turn + 1 >= state.turns - 1
        after = self._after + (self._config.final_prompt if now_the_last else "")
        return Reply(outcome.text, self._before, after)


def load(config: ToolMathConfig) -> ToolMath:
    """Build the environment of a configuration section, with a sandbox of its own."""
    from alpkit.sandbox import start

    return ToolMath(
        config,
        start(isolation=config.sandbox, seconds=config.seconds, memory_mib=config.memory_mib),
    )
