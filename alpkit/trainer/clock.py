"""Where a step's wall-clock time went."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


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
            yield
        finally:
            _wait_for_the_gpu()
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed

    def metrics(self) -> dict[str, float]:
        found = {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        return found | {"time/step": time.perf_counter() - self.start}


def _wait_for_the_gpu() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
