"""Find arms that are one run under two names: (nearly) equal metrics, and bounds that hardly ever acted.

Said first, because no test between such arms means anything.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.pairs import Pair
from alpkit.analysis.text import brief
from alpkit.metrics import WATCHED

COMPARED: Final = ("reward/mean", "train/loss", *WATCHED)
EQUAL: Final = 1e-9
"""Largest relative difference of arms that are the same run but for rounding."""
NEAR: Final = 0.01
"""Mean relative difference below which two arms are told to be nearly the same run."""
MOST: Final = 3
"""Sentences that a first screen has room for."""
RARE: Final = 1e-3
"""Share of tokens below which a bound is told to have hardly acted."""


def same_runs(frame: GridFrame, compared: Iterable[Pair]) -> list[str]:
    """Write a sentence for each compared pair of arms that are, or nearly are, the same run."""
    told = []
    for arm, control in dict.fromkeys((pair.arm, pair.control) for pair in compared):
        gap = _gap(frame, arm, control)
        if gap is None:
            continue
        touched = _touched(frame, arm) or _touched(frame, control)
        why = f": {touched}, so these arms cannot differ" if touched else ""
        if gap[1] <= EQUAL:
            told.append(f"{arm} and {control} are the same run, every logged step equal{why}.")
        elif gap[0] <= NEAR:
            size = f"their metrics differ by {brief(100 * gap[0])} % on average"
            told.append(f"{arm} and {control} are nearly the same run, {size}{why}.")
    return told


def rare_bounds(frame: GridFrame, *, but: Iterable[str] = ()) -> list[str]:
    """Write a sentence for each arm whose bounds hardly ever acted; `but` has sentences that told it already."""
    told = " ".join(but)
    found = ((arm, _touched(frame, arm)) for arm in frame.arms)
    return [f"{arm}: {words}." for arm, words in found if words and words not in told]


def in_short(sentences: Sequence[str]) -> list[str]:
    """Write the first of many sentences, and how many more there are."""
    if len(sentences) <= MOST:
        return list(sentences)
    return [*sentences[:MOST], f"And {len(sentences) - MOST} more of this kind."]


def _gap(frame: GridFrame, arm: str, control: str) -> tuple[float, float] | None:
    """Compute mean and largest relative difference of two arms' metrics on shared finished seeds and steps."""
    keys = [key for key in COMPARED if key in frame.steps.columns]
    done = set(frame.finished["cell_id"])
    steps = frame.steps[(frame.steps["step"] > 0) & frame.steps["cell_id"].isin(done)]
    ours, theirs = (
        steps[steps["arm"] == name].set_index(["seed", "step"])[keys] for name in (arm, control)
    )
    shared = ours.index.intersection(theirs.index)
    if not len(shared) or not keys:
        return None
    one, other = ours.loc[shared].to_numpy(float), theirs.loc[shared].to_numpy(float)
    size = np.maximum(np.abs(one), np.abs(other))
    gaps = np.abs(one - other) / np.where(size > 0, size, 1.0)
    known = gaps[np.isfinite(gaps)]
    return (float(known.mean()), float(known.max())) if known.size else None


def _touched(frame: GridFrame, arm: str) -> str:
    """Give the share of tokens that each of the arm's bounds acted on, of bounds below `RARE`."""
    rows = frame.finished[frame.finished["arm"] == arm]
    if rows.empty:
        return ""
    own = frame.steps[(frame.steps["step"] > 0) & frame.steps["cell_id"].isin(rows["cell_id"])]
    words = []
    for bound, receipts in dict(rows.iloc[0]["bounds"]).items():
        keys = [f"receipt/{key}" for key in receipts if f"receipt/{key}" in own.columns]
        share = float(own[keys].sum(axis=1, min_count=1).mean()) if keys else np.nan
        if share < RARE:
            often = f"{brief(100 * share)} % of its tokens" if share else "none of its tokens"
            words.append(f"the {bound} touched {often}")
    return "; ".join(words)
