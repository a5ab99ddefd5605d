"""Read files that a killed run may have left half-written: the rows that can be read, and every fault.

Each artefact has one reader that gives `Contents`. A caller that needs all of it calls `strict`;
the analysis lists the faults and goes on.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from alpkit.errors import TrackingError

Row = TypeVar("Row")


class Fault(NamedTuple):
    """Something that could not be read: where it is, and why (in words that name no folder)."""

    path: Path
    reason: str
    line: int | None = None
    cut_short: bool = False
    """Whether it is the half line that a killed process leaves at the end: no harm to who goes on."""

    @property
    def place(self) -> str:
        """File and line, as a person would look them up."""
        return str(self.path) if self.line is None else f"{self.path}:{self.line}"

    def place_in(self, folder: Path) -> str:
        """The place as seen from `folder`, which means something on another machine too."""
        return self._replace(path=self.path.relative_to(folder)).place

    def error(self, what: str, fix: str) -> TrackingError:
        """Turn the fault into an error: `what` failed, and the `fix`; place and reason are the fault's own."""
        return TrackingError(what, where=self.place, why=self.reason, fix=fix)


class Contents(NamedTuple, Generic[Row]):
    """The rows of a file that could be read, and a fault for the rest; a missing file has neither."""

    rows: list[Row]
    faults: list[Fault]

    def strict(self, what: str, fix: str) -> list[Row]:
        """Give the rows; raise the first fault as a `TrackingError`, unless a kill explains it."""
        for fault in self.faults:
            if not fault.cut_short:
                raise fault.error(what, fix)
        return self.rows


def reason_of(error: Exception, path: Path) -> str:
    """Say an error in one line, without its folder, which means nothing on another machine."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    return lines[0].replace(str(path), path.name)[:200] if lines else type(error).__name__


def scan_mapping(path: Path, parse: Callable[[str], object]) -> Contents[dict[str, object]]:
    """Read a file that holds one mapping, as JSON and YAML have it."""
    try:
        data = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return Contents([], [Fault(path, f"cannot be read ({reason_of(error, path)})")])
    if not isinstance(data, dict):
        return Contents([], [Fault(path, "holds no mapping")])
    return Contents([data], [])


def scan_json_lines(path: Path, parse: Callable[[dict[str, object]], Row]) -> Contents[Row]:
    """Read a file of one JSON object per line; `parse` may refuse one by a ValueError or KeyError."""
    rows: list[Row] = []
    faults: list[Fault] = []
    if not path.is_file():
        return Contents(rows, faults)
    # A killed process leaves half a line, possibly half a character. Not splitlines: a text may hold
    # one of the line ends that only Unicode knows.
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return Contents(rows, [Fault(path, f"cannot be read ({reason_of(error, path)})")])
    lines = text.rstrip("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(parse(_mapping(json.loads(line))))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            last = number == len(lines)
            faults.append(Fault(path, "not a whole line of JSON", number, cut_short=last))
    return Contents(rows, faults)


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError("no mapping")
    return dict(value)
