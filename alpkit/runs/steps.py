"""`metrics.jsonl`: a line of metrics per step, appended by the process that trains, rewound by a resume.

    tracker = CellTracker(folder); tracker.log(1, {"reward/mean": 0.5}); read_steps(folder)

Not here: which keys exist (`alpkit.metrics`), MLflow (`alpkit.tracking`).
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from alpkit.errors import TrackingError
from alpkit.metrics import check_keys
from alpkit.runs.disk import append_text, sync_file, writing
from alpkit.runs.faults import Contents, scan_json_lines
from alpkit.runs.folder import RunFolder
from alpkit.runs.swap import write_text

_TAIL: Final = 200_000
"""Bytes at the end of a file that hold its last line for certain: a line has some 15,000."""
OnStep = Callable[[int, Mapping[str, float]], None]


class Step(NamedTuple):
    """One line: a step's metrics, None where the value was not finite."""

    step: int
    metrics: dict[str, float | None]


class Tracker(Protocol):
    """The trainer's way to log: `log` once per step, `rewind` once when it resumes."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one step's metrics; non-finite values become gaps."""

    def rewind(self, step: int | None) -> None:
        """Forget every step after `step` (None: all of them): training goes on from there."""


class CellTracker:
    """A cell's `Tracker`: a line of JSON per step, and a listener that passes the step on."""

    def __init__(self, folder: Path, *, on_step: OnStep | None = None) -> None:
        self._folder = folder
        self._on_step = on_step
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        # Damage is judged by who resumes: it goes back to what can be proved.
        self._last = max((step for step, _ in scan_steps(folder).rows), default=-1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one step's metrics under keys of the closed list; non-finite values become gaps."""
        check_keys(metrics)
        path = RunFolder(self._folder).metrics
        if step <= self._last:
            raise TrackingError(
                f"step {step} was logged after step {self._last}",
                where=str(path),
                why="every step has one line",
                fix="call rewind(step) when training resumes from an earlier step",
            )
        values = {key: float(value) for key, value in metrics.items()}
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        append_text(path, _line(Step(step, {key: finite.get(key) for key in values})))
        self._last = step
        if self._on_step is not None:
            self._on_step(step, finite)

    def rewind(self, step: int | None) -> None:
        """Drop the lines after `step` (None: all of them), and what a kill left half-written."""
        last = -1 if step is None else step
        kept = [row for row in scan_steps(self._folder).rows if row.step <= last]
        if RunFolder(self._folder).metrics.exists():
            write_steps(self._folder, kept)
        self._last = kept[-1].step if kept else -1


def scan_steps(folder: Path) -> Contents[Step]:
    """Read a run's `metrics.jsonl`, and name the lines that cannot be read."""
    return scan_json_lines(RunFolder(folder).metrics, _step)


def read_steps(folder: Path) -> list[Step]:
    """Read a run's `metrics.jsonl`; `TrackingError` where it is damaged.

    The half line that a killed process leaves at the end is skipped.
    """
    fix = "restore the file, or delete the cell's folder to run it again"
    return scan_steps(folder).strict("a step's metrics cannot be read", fix)


def last_step(folder: Path) -> int:
    """Give the last step of a run's `metrics.jsonl` that can be read; -1 for none."""
    return max((row.step for row in scan_steps(folder).rows), default=-1)


def newest_step(folder: Path) -> Step | None:
    """Read the last whole line of a run's `metrics.jsonl`, without the rest of it; None where there is none."""
    path = RunFolder(folder).metrics
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    # What follows the last line break is being written.
    for line in reversed(lines[:-1]):
        try:
            return _step(json.loads(line))
        except (ValueError, KeyError, TypeError):
            continue
    return None


class Proof(NamedTuple):
    """Steps of a run that its `metrics.jsonl` proves, and what breaks off after them."""

    step: int
    """The last step of the lines 0, 1, 2, … that follow one another; -1 for none."""
    gap: str


def proved_steps(folder: Path) -> Proof:
    """Say up to which step every line of a run's `metrics.jsonl` is there, once and whole."""
    path = RunFolder(folder).metrics
    if not path.is_file():
        return Proof(-1, f"{path.name} is missing")
    rows, faults = scan_steps(folder)
    first = next((fault.line for fault in faults if not fault.cut_short), None)
    step = -1
    for row in rows:
        if row.step != step + 1:
            return Proof(step, f"{path.name} lacks step {step + 1}")
        step = row.step
    if first is not None:
        return Proof(min(step, first - 2), f"line {first} of {path.name} is damaged")
    return Proof(step, f"{path.name} ends at step {step}")


def sync_steps(folder: Path) -> None:
    """Have `metrics.jsonl` on the disk itself: a checkpoint must never know more than it."""
    path = RunFolder(folder).metrics
    if path.is_file():
        with writing(path):
            sync_file(path)


def write_steps(folder: Path, steps: Iterable[Step]) -> None:
    """Replace a run's `metrics.jsonl`."""
    write_text(RunFolder(folder).metrics, "".join(map(_line, steps)))


def _step(line: dict[str, object]) -> Step:
    step = line.pop("step")
    if type(step) is not int or step < 0:
        raise ValueError("no step")
    return Step(step, {str(key): _number(value) for key, value in line.items()})


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("no number")
    return float(value) if math.isfinite(value) else None


def _line(row: Step) -> str:
    return json.dumps({"step": row.step, **row.metrics}) + "\n"
