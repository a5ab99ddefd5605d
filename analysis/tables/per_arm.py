"""Lay out scores over seeds as tables show them: a row per arm, no mean without its interval or points.

With three seeds or more a 95 % t interval follows, with two both points are shown, and n is always a
column. Tables of arms, of subsets and of comparisons are written with these.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.seeds.scores import FINISHED, SCORES
from alpkit.analysis.seeds.verdicts import Interval, over_seeds
from alpkit.analysis.tables import Table
from alpkit.analysis.text import interval_text


def score_intervals(cells: pd.DataFrame, columns: Sequence[str]) -> dict[str, Interval]:
    """Compute each score over the seeds of `cells`."""
    return {column: over_seeds(cells[column]) for column in columns}


def interval_columns(name: str, interval: Interval) -> dict[str, float]:
    """Write an interval as columns of a CSV: `name_mean`, `name_low`, `name_high`."""
    return {f"{name}_{part}": getattr(interval, part) for part in ("mean", "low", "high")}


def interval_texts(intervals: Mapping[str, Interval]) -> dict[str, str]:
    """Write each score's label and its interval as text, in the score's own digits."""
    return {
        SCORES[column].label: interval_text(interval, SCORES[column].digits)
        for column, interval in intervals.items()
    }


def scores_per_arm(
    frame: GridFrame, name: str, title: str, caption: str, columns: Sequence[str]
) -> Table:
    """Lay out a row per arm with its scores over finished seeds."""
    data, shown = [], []
    for arm in frame.arms:
        own = frame.cells[frame.cells["arm"] == arm]
        finished = own[own["state"] == FINISHED]
        intervals = score_intervals(finished, columns)
        raw: dict[str, object] = {"arm": arm, "n": len(finished), "cells": len(own)}
        for column, interval in intervals.items():
            raw |= interval_columns(column, interval)
            raw[f"{column}_interval"] = interval.kind
            raw[f"{column}_points"] = ";".join(f"{p:.9g}" for p in interval.points)
        data.append(raw)
        shown.append({"arm": arm, "n": str(len(finished)), **interval_texts(intervals)})
    caption = f"{caption} {_how_seeds_are_shown(frame)}"
    return Table(name, title, caption, pd.DataFrame(data), pd.DataFrame(shown))


def _how_seeds_are_shown(frame: GridFrame) -> str:
    counts = frame.finished.groupby("arm").size()
    most = int(counts.max()) if len(counts) else 0
    if most >= 3:
        return "Mean over seeds [95 % t interval]; with two seeds both points. n: finished seeds."
    if most == 2:
        return "Two seeds: both points, no mean and no interval. n: finished seeds."
    return "One seed or none per arm: no statement about seed noise is possible. n: finished seeds."
