"""Outcome of a snippet, and the text that a model is told of it."""

import signal
from typing import Final, Literal, NamedTuple

Kind = Literal["ok", "error", "cpu_time", "wall_time", "memory", "output", "signal", "lost"]

_LONGEST_ERROR: Final = 600
"""Characters of a failed snippet's output that are shown: its beginning and its end, where the reason is."""


class Outcome(NamedTuple):
    """One snippet's end; `text` is what a model reads."""

    kind: Kind
    """ok; error: an exception or an exit status; cpu_time, wall_time, memory, output: stopped at that limit; signal:
    a native crash or killed; lost: the sandbox itself went away with it."""
    output: str = ""
    """What it wrote to standard output and standard error, in order."""
    status: int | None = None
    """Exit status of an error, number of the signal."""
    seconds: float = 0.0
    limit: str = ""
    """The limit that stopped it, in words."""

    @property
    def text(self) -> str:
        """The output; anything but a plain end is said first, so that no cut removes it."""
        output = self.output.rstrip("\n")
        if self.kind == "ok":
            return output
        if self.kind == "error":
            return _middle_cut(output) or f"[exit status {self.status}]"
        return f"[{self._stopped()}]\n{output}" if output else f"[{self._stopped()}]"

    def _stopped(self) -> str:
        match self.kind:
            case "signal":
                return f"killed by signal {_name(self.status)}"
            case "lost":
                return "stopped: it took the sandbox down"
            case _:
                return f"stopped: more than {self.limit}"


def _middle_cut(text: str) -> str:
    if len(text) <= _LONGEST_ERROR:
        return text
    half = _LONGEST_ERROR // 2
    return f"{text[:half]}\n[…]\n{text[-half:]}"


def _name(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return str(number or "unknown")
