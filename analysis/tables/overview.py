"""The one table that everybody sees first: a row per arm with what the grid is about.

The report's first screen, the end of `alpkit run` and `alpkit analyze`, the notebooks' `frame.summary()` and
the parent run in MLflow all show these numbers. Up to eight arms; of more, the tested ones and the best.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.pairs import pairs
from alpkit.analysis.seeds.scores import FINISHED
from alpkit.analysis.seeds.verdicts import Interval, over_seeds
from alpkit.analysis.tables import Table
from alpkit.analysis.text import DASH, brief

MOST: Final = 8
"""Arms of a table that is read at a glance."""
BEST: Final = 5
"""Of more arms than `MOST`, those with the best scores that are shown beside the tested ones."""


class Measure(NamedTuple):
    """A column: its score in `GridFrame.cells`, what it is called, its unit, and what it means."""

    column: str
    title: str
    unit: str
    meaning: str
    scale: float = 1.0
    drawn: Literal["points", "bar"] = "points"


class Entry(NamedTuple):
    """One arm on one measure: over seeds, and as text."""

    measure: Measure
    interval: Interval
    text: str


class ArmRow(NamedTuple):
    """One arm: how many of its cells finished, and its entries."""

    arm: str
    finished: int
    cells: int
    entries: tuple[Entry, ...]


class Overview(NamedTuple):
    """The arms that are shown, and how many there are."""

    rows: tuple[ArmRow, ...]
    arms: int

    @property
    def measures(self) -> tuple[Measure, ...]:
        """List the columns; some arm logged each of them."""
        return tuple(entry.measure for entry in self.rows[0].entries) if self.rows else ()


MEASURES: Final = (
    Measure("eval_greedy", "accuracy", "", "greedy, held out, last evaluations"),
    Measure("final_reward", "reward", "", "mean of the last steps"),
    Measure("khat_right", "tail k̂", "", "tail shape of the token ratio; above 0.7 no mean is safe"),
    Measure("width", "width", "nats", "P98 − P2 of the token log ratio"),
    Measure("spike_rate", "KL spikes", "/1,000", "steps on which K3 spiked", 1.0, "bar"),
    Measure("ess", "ESS", "%", "effective share of the batch's tokens", 100.0),
    Measure("weight_removed", "removed", "%", "importance weight that the correction took", 100.0, "bar"),
    Measure("step_seconds", "cost", "s/step", "median wall-clock time of a step", 1.0, "bar"),
)  # fmt: skip


def overview(frame: GridFrame, arms: Sequence[str] | None = None) -> Overview:
    """Measure `arms` (default: `chief_arms`) over their finished seeds."""
    shown = list(arms) if arms is not None else chief_arms(frame)
    cells = [(arm, frame.cells[frame.cells["arm"] == arm]) for arm in shown]
    return overview_of(cells)._replace(arms=len(frame.arms))


def overview_of(groups: Sequence[tuple[str, pd.DataFrame]]) -> Overview:
    """Measure named groups of cells, wherever they come from."""
    finished = [(name, own, own[own["state"] == FINISHED]) for name, own in groups]
    together = pd.concat([done for *_, done in finished]) if finished else pd.DataFrame()
    measures = list(_logged(together))
    rows = tuple(
        ArmRow(name, len(done), len(own), tuple(_entry(done, measure) for measure in measures))
        for name, own, done in finished
    )
    return Overview(rows, len(rows))


def chief_arms(frame: GridFrame) -> list[str]:
    """Choose the arms to show: every one up to `MOST`; of more, the tested ones and the `BEST` scores, in order."""
    if len(frame.arms) <= MOST:
        return frame.arms
    tested = [pair for pair in pairs(frame) if pair.tested]
    named = list(dict.fromkeys(arm for pair in tested for arm in (pair.arm, pair.control)))
    kept = set(named) if len(named) <= MOST - BEST else set(named[: MOST - BEST])
    score = score_column(frame)
    order = frame.finished.groupby("arm")[score].mean().sort_values(ascending=False).index
    kept |= set([str(arm) for arm in order if arm not in kept][:BEST])
    kept |= set([arm for arm in frame.arms if arm not in kept][: max(0, BEST - len(order))])
    return [arm for arm in frame.arms if arm in kept]


def score_column(frame: GridFrame) -> str:
    """Choose the score of an arm: greedy accuracy where the grid evaluates, else the final reward."""
    return _score_of(frame.cells)


def overview_table(found: Overview) -> Table:
    """Lay out the overview as a `Table`: mean and interval of every measure, and their text."""
    data, shown = [], []
    for row in found.rows:
        raw: dict[str, object] = {"arm": row.arm, "finished": row.finished, "cells": row.cells}
        words = {"arm": row.arm, "seeds": seeds_text(row)}
        for measure, interval, text in row.entries:
            for part in ("mean", "low", "high"):
                raw[f"{measure.column}_{part}"] = getattr(interval, part)
            words[header(measure)] = text
        data.append(raw)
        shown.append(words)
    caption = (
        "Finished seeds: mean [95 % t interval] from three on, from-to with two. Reward and accuracy: the "
        "last steps; the rest: all of training. CSV: the numbers as logged, in shares."
    )
    return Table(
        "overview", "All arms at a glance", caption, pd.DataFrame(data), pd.DataFrame(shown)
    )


def header(measure: Measure) -> str:
    """Write title and unit as a column's head."""
    return f"{measure.title}, {measure.unit}" if measure.unit else measure.title


def seeds_text(row: ArmRow) -> str:
    """Write the number of finished seeds: `3`, or `2 of 3` where a cell has not finished."""
    return str(row.cells) if row.finished == row.cells else f"{row.finished} of {row.cells}"


def _logged(done: pd.DataFrame) -> Iterator[Measure]:
    """List the measures that some cell logged; a single score, so that nobody must ask which of two counts."""
    score = _score_of(done)
    for measure in MEASURES:
        if measure.column in ("eval_greedy", "final_reward") and measure.column != score:
            continue
        values = done[measure.column] if measure.column in done else pd.Series(dtype=float)
        if values.notna().any() and not (
            measure.column == "weight_removed" and values.fillna(0).eq(0).all()
        ):
            yield measure


def _score_of(cells: pd.DataFrame) -> str:
    evaluated = "eval_greedy" in cells and cells["eval_greedy"].notna().any()
    return "eval_greedy" if evaluated else "final_reward"


def _entry(done: pd.DataFrame, measure: Measure) -> Entry:
    interval = over_seeds(done[measure.column].to_numpy(float) * measure.scale)
    return Entry(measure, interval, _text(interval, measure))


def _text(interval: Interval, measure: Measure) -> str:
    if not np.isfinite(interval.mean):
        return DASH
    # A bar is a size, not an estimate: its interval would be three numbers more.
    if measure.drawn == "bar" or interval.kind == "single":
        return brief(interval.mean)
    low, high = brief(interval.low), brief(interval.high)
    if low == high:
        return brief(interval.mean)
    if interval.kind == "range":
        return f"{low} to {high}"
    return f"{brief(interval.mean)} [{low}, {high}]"
