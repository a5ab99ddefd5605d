"""Profile one step of a cell: what `alpkit run --profile` trains with instead of `train_cell`.

The second step of the launch is profiled (the first warms up), whatever its number; a cell that takes one
step alone has that one profiled. Beside the cell's other files: `profile/trace.json.gz` for Chrome's tracing page or
Perfetto, and `profile/table.md`, where the step's time went: by span of the clock, then the largest
operators in each. Only the time metrics of that step are touched.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from alpkit.config import RunConfig
from alpkit.runs.folder import RunFolder
from alpkit.runs.steps import Tracker
from alpkit.runs.swap import write_text
from alpkit.trainer import train_cell as plain_train_cell
from alpkit.trainer.clock import SPAN

_TOP: Final = 6
"""Operators shown of a span."""
_WARM: Final = 1
"""Steps that are taken before the one that is profiled."""


def train_cell(config: RunConfig, folder: Path, tracker: Tracker) -> None:
    """Train as `alpkit.trainer.train_cell`, with one step under torch's profiler."""
    watched = _Watched(config, RunFolder(folder), tracker)
    try:
        plain_train_cell(config, folder, watched)
    finally:
        watched.stop()


class Operator(NamedTuple):
    """One operator inside one span: calls and its own seconds, those of what it called left out."""

    name: str
    calls: int
    seconds: float


class _Watched:
    """A tracker that starts the profiler after a step's line is written and ends it after the next one's."""

    def __init__(self, config: RunConfig, folder: RunFolder, tracker: Tracker) -> None:
        self._last, self._folder, self._tracker = config.train.steps, folder, tracker
        self._profiler: profile | None = None
        self._taken = 0
        self._done = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tracker.log(step, metrics)
        if self._profiler is not None:
            self._write(step, metrics)
        self._taken += step > 0
        if not self._done and step < self._last and self._due(step):
            self._start()

    def rewind(self, step: int | None) -> None:
        self._tracker.rewind(step)
        done = step or 0
        if step is not None and done + 1 == self._last:
            self._start()  # resumed with one step to go: no line comes before it

    def stop(self) -> None:
        """End what a failed step has left running."""
        if self._profiler is not None:
            with suppress(RuntimeError):
                self._profiler.stop()

    def _due(self, step: int) -> bool:
        return self._taken >= _WARM or step + 1 == self._last

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(activities=activities)
        self._profiler.start()

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        assert self._profiler is not None
        profiler, self._profiler, self._done = self._profiler, None, True
        profiler.stop()
        self._folder.profile.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._folder.profile_trace))
        write_text(self._folder.profile_table, table(step, metrics, profiler.events() or []))


def table(step: int, metrics: Mapping[str, float], events: Iterable[FunctionEvent]) -> str:
    """Lay out where a step's time went: spans of the clock, then the largest operators in each."""
    total = metrics["time/step"]
    spans = {
        key.removeprefix("time/"): seconds
        for key, seconds in metrics.items()
        if key.startswith("time/") and key != "time/step"
    }
    spans["(untimed)"] = total - sum(spans.values())
    inside = by_span(events)
    lines = [
        f"Step {step}: {total:.3f} s under the profiler, which slows small operators.",
        "",
        "| span | operator | calls | seconds | share of the step |",
        "|---|---|---:|---:|---:|",
    ]
    for name, seconds in sorted(spans.items(), key=lambda item: -item[1]):
        lines.append(f"| **{name}** |  |  | {seconds:.3f} | {seconds / total:.1%} |")
        lines += [
            f"|  | {op.name} | {op.calls} | {op.seconds:.3f} | {op.seconds / total:.1%} |"
            for op in inside.get(name, [])[:_TOP]
        ]
    return "\n".join(lines) + "\n"


def by_span(events: Iterable[FunctionEvent]) -> dict[str, list[Operator]]:
    """Sum operators by the span in whose time they began, largest first; on a GPU its own seconds count."""
    ordered = sorted(events, key=lambda event: event.time_range.start)
    spans = [
        (event.time_range.start, event.time_range.end, event.name.removeprefix(SPAN))
        for event in ordered
        if event.name.startswith(SPAN)
    ]
    sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0, 0.0]))
    current = 0
    for event in ordered:
        if event.name.startswith(SPAN) or event.device_type.name != "CPU":
            continue
        while current < len(spans) and spans[current][1] < event.time_range.start:
            current += 1
        if current == len(spans) or event.time_range.start < spans[current][0]:
            continue
        own = (event.self_device_time_total or event.self_cpu_time_total) / 1e6
        found = sums[spans[current][2]][event.name]
        found[0] += 1
        found[1] += own
    return {
        name: sorted(
            (Operator(op, int(calls), seconds) for op, (calls, seconds) in found.items()),
            key=lambda op: -op.seconds,
        )
        for name, found in sums.items()
    }
