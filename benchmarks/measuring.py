"""Helpers of the benchmarks: alternating pairs, tables, fitted exponents."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a Markdown table, floats with three digits."""
    shown = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        f"| {' | '.join(f'{x:.3g}' if isinstance(x, float) else str(x) for x in row)} |"
        for row in shown
    )


def seconds(call: Callable[[], object]) -> float:
    """Time one call on the wall."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(sides: Mapping[str, Callable[[], object]], pairs: int) -> dict[str, float]:
    """Time every side in turn, `pairs` rounds after one that warms up; medians of seconds."""
    for call in sides.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(pairs):
        for name, call in sides.items():
            found[name].append(seconds(call))
    return {name: statistics.median(values) for name, values in found.items()}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Fit values = a * size ** exponent, least squares in logarithms."""
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in values]
    return statistics.linear_regression(xs, ys).slope
