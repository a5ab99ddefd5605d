"""The errors a user is meant to read: what failed, where, why it matters, how to fix it.

Anything raised that is not an `AlpkitError` is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

_CUTOFF: Final = 0.6
"""How alike two words must be (difflib's ratio) for one to be offered for the other."""


class Fault(NamedTuple):
    """One thing wrong, at one place, with what to do about it."""

    where: str
    what: str
    hint: str = ""


class AlpkitError(Exception):
    """A failure that the user can act on; every part is at most a sentence."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.what, self.where, self.why, self.fix = what, where, why, fix
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.where}  {self.what}" if self.where else self.what
        lines = [
            head,
            f"  why: {self.why}" if self.why else "",
            f"  fix: {self.fix}" if self.fix else "",
        ]
        return "\n".join(line for line in lines if line)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders; the default reduce would lose the keyword parts.
        return _rebuild, (type(self), self.what, self.where, self.why, self.fix)


def _rebuild(kind: type[AlpkitError], what: str, where: str, why: str, fix: str) -> AlpkitError:
    return kind(what, where=where, why=why, fix=fix)


class ConfigError(AlpkitError):
    """A configuration that cannot mean anything, or that means something else than it says."""

    faults: tuple[Fault, ...] = ()
    """What is wrong with a file, one by one, where it is a file's error."""


def together(errors: Sequence[AlpkitError]) -> AlpkitError:
    """Make one error of several, each said once: of the kind of the first."""
    told = list(dict.fromkeys(map(str, errors)))
    return errors[0] if len(told) == 1 else type(errors[0])("\n".join(told))


class PrerequisiteError(AlpkitError):
    """A package, model or file that this run needs and this machine lacks."""


class GridError(AlpkitError):
    """A grid that cannot be expanded, resumed or found."""


class RolloutError(AlpkitError):
    """A sampler that failed, or whose weights or log-probs cannot be trusted."""

    exit_code = 1


class NumericalError(AlpkitError):
    """Non-finite numbers past the configured limit; never repaired silently."""

    exit_code = 1


class TrackingError(AlpkitError):
    """A tracking store or run folder that cannot be written, read or resolved."""


def did_you_mean(word: object, options: Iterable[str], label: str = "") -> str:
    """Offer the option that is nearest to `word`, then list all of them under `label`, if it is given.

    Empty when nothing is near and there is no label: `fix=did_you_mean(name, arms) or "use one of them"`.
    """
    listed = sorted(set(options))
    near = difflib.get_close_matches(str(word), listed, n=1, cutoff=_CUTOFF)
    hint = f"did you mean {near[0]!r}?" if near else ""
    everything = f"{label}: {', '.join(listed)}" if label and listed else ""
    return "  ".join(part for part in (hint, everything) if part)
