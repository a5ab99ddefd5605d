"""Where a step's wall-clock time went."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Wall-clock seconds of a step by what they were spent on; nested spans count once, inside."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed

    def metrics(self) -> dict[str, float]:
        found = {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        return found | {"time/step": time.perf_counter() - self.start}
