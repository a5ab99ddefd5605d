"""Peak memory of a step: of the GPU's allocator where there is one, else of this process.

On Linux the kernel's high-water mark is reset at every step, so a worker's earlier cells do not show
in later ones. Where neither can be read there is no metric.
"""

import re
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_GIB = 1 << 30


class PeakMemory:
    """Starts counting when it is made; `metrics` says how high it went."""

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
        """`memory/peak` in GiB, or nothing."""
        if torch.cuda.is_available():
            return {"memory/peak": torch.cuda.max_memory_allocated() / _GIB}
        if not self._mark_is_ours:
            return {}
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        return {"memory/peak": int(found[1]) * 1024 / _GIB} if found else {}
