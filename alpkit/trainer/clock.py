"""Measure what a step costs: seconds by what they were spent on, and the peak of memory."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_GIB = 1 << 30
SPAN: Final = "alpkit."
"""Begins the names of the clock's spans in a profiler's trace."""


class Clock:
    """Wall-clock seconds of a step by what they were spent on; spans do not nest.

    A span waits for the GPU at both ends: work is booked where it was asked for.
    """

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        _wait_for_the_gpu()
        start = time.perf_counter()
        try:
            with torch.profiler.record_function(SPAN + name):
                yield
        finally:
            _wait_for_the_gpu()
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed

    def elapsed(self) -> float:
        """Return the seconds since the clock was made."""
        return time.perf_counter() - self.start

    def metrics(self) -> dict[str, float]:
        """Return `time/*` of every span, and `time/step` since the clock was made."""
        spans = {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        return spans | {"time/step": self.elapsed()}


class PeakMemory:
    """Peak memory since it was made: of the GPU's allocator where there is one, else of this process.

    On Linux the kernel's high-water mark is reset at every step, so a worker's earlier cells do not show
    in later ones, but for what `policy.memory.keep_freed_memory` keeps for reuse: on a CPU a trainer's peak
    is the highest of the process so far. Where neither can be read there is no metric.
    """

    def __init__(self) -> None:
        self._mark_is_ours = False
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return
        try:
            _RESET.write_text("5")  # proc(5): resets the peak resident set size
            self._mark_is_ours = True
        except OSError:
            pass

    def metrics(self) -> dict[str, float]:
        """Return `memory/peak` in GiB, or nothing where it is not known."""
        if torch.cuda.is_available():
            return {"memory/peak": torch.cuda.max_memory_allocated() / _GIB}
        if not self._mark_is_ours:
            return {}
        mark = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        return {"memory/peak": int(mark[1]) * 1024 / _GIB} if mark else {}


def _wait_for_the_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
