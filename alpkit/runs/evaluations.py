"""`evaluations.jsonl`: how often each item of each set was solved, one line per evaluation of a set.

A line is `{"step", "set", "samples", "solved": [...], "reward": [...], "greedy": [...], "items": [...]}`:
samples that solved the item, their mean reward, whether greedy decoding solved it, and a hash of its prompt.
pass@k for every k follows from it (`alpkit.diagnostics.passes`).
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from alpkit.runs.disk import append_text
from alpkit.runs.faults import Contents, scan_json_lines
from alpkit.runs.folder import RunFolder
from alpkit.runs.swap import write_text


class Counts(NamedTuple):
    """One set at one step; the lists have one entry per item."""

    step: int
    set: str
    samples: int
    solved: list[int]
    reward: list[float]
    greedy: list[float]
    items: list[str]


def item_id(prompt: str) -> str:
    """Name an item by its prompt, so that evaluations of different runs can be paired."""
    return hashlib.blake2b(prompt.encode(), digest_size=6).hexdigest()


def append_evaluations(folder: Path, lines: Iterable[Counts]) -> None:
    """Add the lines of one step to a run's evaluations."""
    append_text(RunFolder(folder).evaluations, "".join(map(_line, lines)))


def scan_evaluations(folder: Path) -> Contents[Counts]:
    """Read a run's evaluations, and name the lines that cannot be read."""
    return scan_json_lines(RunFolder(folder).evaluations, _counts)


def read_evaluations(folder: Path) -> list[Counts]:
    """Read a run's evaluations; `TrackingError` where the file is damaged.

    The half line that a killed process leaves at the end is skipped.
    """
    fix = "restore the file, or delete it: training does not need it"
    return scan_evaluations(folder).strict("an evaluation cannot be read", fix)


def rewind_evaluations(folder: Path, step: int | None) -> None:
    """Forget evaluations after `step` (None: all), and damaged lines: training goes on from there."""
    path = RunFolder(folder).evaluations
    if path.exists():
        read = scan_evaluations(folder).rows
        kept = [row for row in read if step is not None and row.step <= step]
        write_text(path, "".join(map(_line, kept)))


def _counts(line: dict[str, object]) -> Counts:
    fields: dict[str, Any] = {name: line[name] for name in Counts._fields}
    return Counts(**fields)


def _line(row: Counts) -> str:
    return json.dumps(row._asdict()) + "\n"
