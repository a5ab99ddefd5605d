"""Helpers for sheets of panels: arms in wrapped rows, one legend under all, lines with their intervals."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from alpkit.analysis.figures.style import Look

Looks = dict[str, Look]

PER_ROW: Final = 6
RAW: Final = 0.3
"""Opacity of the raw line behind a smoothed one."""
ARM_MARK: Final = "arm:"
"""Prefix of the ids of what belongs to one arm in a drawing."""
INK, SOFT = "#1c2127", "#5a5f66"
SHORT: Final = {"token": "token level", "product": "response level (product)"}
SIDE_NAMES: Final = {"right": "ratio", "left": "1 / ratio"}


def line(part: pd.DataFrame, axes: Axes, looks: Looks, arm: str, y: str = "mean") -> None:
    """Draw `y` over `step` with its interval as a band, fainter among many arms; points too where there are few."""
    look, sparse = looks[arm], len(part) <= 15
    with of_arm(axes, arm):
        # Every arm's points are of one size: a larger one would look like more.
        axes.plot(
            part["step"],
            part[y],
            color=look.colour,
            ls=look.line,
            marker=(look.marker or "o") if sparse else None,
            ms=3,
            label=arm,
        )
        if part["low"].notna().any():
            alpha = min(0.14, 0.84 / len(looks))
            axes.fill_between(
                part["step"], part["low"], part["high"], color=look.colour, alpha=alpha, lw=0
            )


def smoothed_line(part: pd.DataFrame, axes: Axes, looks: Looks, arm: str) -> None:
    """Draw `smooth` over `step`, with the raw `mean` pale behind it."""
    look = looks[arm]
    with of_arm(axes, arm):
        axes.plot(part["step"], part["mean"], color=look.colour, lw=0.7, alpha=RAW)
        axes.plot(part["step"], part["smooth"], color=look.colour, ls=look.line, label=arm)


@contextmanager
def of_arm(axes: Axes, arm: str) -> Iterator[None]:
    """Mark what is drawn inside the block as the arm's, so that a page can hide and read it."""
    before = set(axes.get_children())
    yield
    for artist in axes.get_children():
        if artist not in before:
            artist.set_gid(f"{ARM_MARK}{arm}")


def span_lines(axes: Axes, values: pd.Series) -> None:
    """Let the lines decide the y axis: three seeds' intervals reach far, and below what a share can be."""
    bottom, top = axes.get_ylim()
    low, high = padded(values, 0.6)
    axes.set_ylim(max(bottom, low), min(top, high))


def arm_grid(
    arms: Sequence[str], rows: Sequence[str], height: float
) -> tuple[Figure, Iterator[tuple[str, str, Axes, bool]]]:
    """Lay out a panel per row and arm, wrapped after `PER_ROW` arms: (row, arm, panel, whether it is leftmost)."""
    blocks = [arms[i : i + PER_ROW] for i in range(0, len(arms), PER_ROW)]
    width = max(len(block) for block in blocks)
    lines = [(row, block) for row in rows for block in blocks]
    figure = Figure(figsize=(max(2.05 * width, 5.0) + 0.7, height * len(lines) + 0.3))
    grid = figure.subplots(len(lines), width, squeeze=False)

    def panels() -> Iterator[tuple[str, str, Axes, bool]]:
        for (row, block), axes in zip(lines, grid):
            for panel in axes[len(block) :]:
                panel.set_visible(False)
            for place, (arm, panel) in enumerate(zip(block, axes)):
                yield row, arm, panel, place == 0

    return figure, panels()


def legend_below(figure: Figure, panels: Iterable[Axes], looks: Looks) -> None:
    """Draw one legend under the sheet for every label of every panel: arms in their order, then the rest."""
    handles: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    labels = [arm for arm in looks if arm in handles] + [x for x in handles if x not in looks]
    if labels:
        rows = -(-len(labels) // 6)
        figure.legend(
            [handles[label] for label in labels],
            labels,
            loc="outside lower center",
            ncols=-(-len(labels) // rows),
        )


def log_ticks(axis: Axis) -> None:
    """Write plain numbers on a logarithmic axis; 2 and 5 too where it spans less than two decades and a half."""
    low, high = sorted(axis.get_view_interval())
    short = low > 0 and math.log10(high / low) < 2.5
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if short else (1.0,), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    # Minor ticks are most of what a logarithmic panel costs to draw, and nobody reads them.
    axis.set_minor_locator(NullLocator())


def _plain(value: float) -> str:
    """Write a tick plainly: 10, 0.02, or 1e-06 where zeros would have to be counted."""
    return (
        f"{value:g}"
        if 1e-3 <= value < 1e5
        else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    )


def arm_handles(arms: Iterable[str], looks: Looks) -> list[Line2D]:
    """Make legend entries for arms that are drawn as points."""
    return [
        Line2D([], [], color=looks[arm].colour, marker="o", ls="", ms=5, label=arm) for arm in arms
    ]


def padded(values: pd.Series, pad: float = 0.05) -> tuple[float, float]:
    """Compute axis limits with a margin, from finite values."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    margin = pad * (high - low) or 0.1
    return low - margin, high + margin
