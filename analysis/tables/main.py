"""The main result: interquartile means over seeds, P(improvement), paired differences, and the points."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.pairs import Pair, control_of_arms
from alpkit.analysis.seeds.rliable import Estimate, FloatArray, improvement, iqm_interval
from alpkit.analysis.seeds.scores import SCORES
from alpkit.analysis.seeds.verdicts import Verdict
from alpkit.analysis.tables import Table
from alpkit.analysis.text import DASH, number, signed_points, with_bounds

COLUMNS: Final = ("eval_greedy", "final_reward")
FEW: Final = 5
"""Seeds below which an interval hides more than it shows: the points stand in its place."""


def main_table(frame: GridFrame, pairs: Sequence[Pair], found: Sequence[Verdict]) -> Table:
    """Lay out a row per arm and score, over finished cells."""
    controls = control_of_arms(pairs)
    grpo = next((p.control for p in pairs if p.kind == "method"), None)
    data, shown = [], []
    for arm in frame.arms:
        for column in COLUMNS:
            points = _points(frame, arm, column)
            if not len(points):
                continue
            control, digits = controls.get(arm), SCORES[column].digits
            centre = iqm_interval(points)
            over_control = _over(frame, arm, control, column)
            over_grpo = _over(frame, arm, grpo, column)
            test = next((v for v in found if v[:3] == (arm, control, column)), None)
            data.append(
                {"arm": arm, "score": column, "n": len(points)}
                | {"points": ";".join(f"{p:.9g}" for p in points)}
                | _columns("iqm", centre)
                | {"control": control or ""}
                | _columns("over_control", over_control)
                | _columns("over_grpo", over_grpo)
                | {"paired": ";".join(f"{p:.9g}" for p in test.points) if test else ""}
            )
            shown.append(
                {
                    "arm": arm,
                    "score": SCORES[column].label,
                    "n": str(len(points)),
                    "IQM": number(centre.value, digits),
                    "95 % or points": _spread(points, centre, digits),
                    "control": control or DASH,
                    "P(> control)": _share(over_control, len(points)),
                    "P(> GRPO)": _share(over_grpo, len(points)),
                    "paired differences": signed_points(test.points) if test else DASH,
                }
            )
    caption = (
        "Finished seeds. IQM: mean of the middle half; [95 %] stratified bootstrap over seeds from "
        f"{FEW} seeds on, below that every seed's point. P(> …): how often a seed of the arm scores "
        "above a seed of the other, unpaired (Mann-Whitney; 0.5 is no difference); control: the arm "
        "without its noise, else GRPO. Paired: arm − control, seed by seed. All definitions are "
        "rliable's; bootstraps of few seeds are too narrow, so what is beyond noise is said above."
    )
    return Table("main", "Main result", caption, pd.DataFrame(data), pd.DataFrame(shown))


def _points(frame: GridFrame, arm: str, column: str) -> FloatArray:
    own = frame.finished[frame.finished["arm"] == arm].sort_values("seed")
    return own[column].dropna().to_numpy(float)


def _over(frame: GridFrame, arm: str, other: str | None, column: str) -> Estimate | None:
    if other is None or arm == other:
        return None
    ours, theirs = _points(frame, arm, column), _points(frame, other, column)
    return improvement(ours, theirs) if len(ours) and len(theirs) else None


def _columns(name: str, estimate: Estimate | None) -> dict[str, float]:
    value, low, high = estimate or (np.nan,) * 3
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _spread(points: FloatArray, centre: Estimate, digits: int) -> str:
    if len(points) < FEW:
        return " · ".join(number(float(p), digits) for p in points)
    return f"[{number(centre.low, digits)}, {number(centre.high, digits)}]"


def _share(estimate: Estimate | None, n: int) -> str:
    if estimate is None:
        return DASH
    return with_bounds(*estimate, 2) if n >= FEW else number(estimate.value, 2)
