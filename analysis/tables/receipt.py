"""Receipt of each arm's correction: the share of tokens that it touched, and a warning where that is none."""

from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.tables import Table
from alpkit.analysis.text import number, row_dicts

PREFIX: Final = "receipt/"
_HALF: Final = 0.5  # below it a perturbed arm is nearly its control


class Idle(NamedTuple):
    """Something that an arm was configured to do and did not."""

    arm: str
    words: str

    def __str__(self) -> str:
        return f"{self.arm}: {self.words}"


def receipt_table(frame: GridFrame) -> Table:
    """Mean over steps and finished cells of every `receipt/*` share, in per cent."""
    keys = [key for key in frame.steps.columns if key.startswith(PREFIX)]
    rows = []
    for arm in frame.arms:
        steps = _training_steps(frame, arm)
        if len(steps):
            rows.append({"arm": arm, **{k.removeprefix(PREFIX): steps[k].mean() for k in keys}})
    data = pd.DataFrame(rows)
    shown = pd.DataFrame(
        [
            {k: v if k == "arm" else _percent(row.number(k)) for k, v in row.items()}
            for row in row_dicts(data)
        ]
    )
    caption = (
        "Shares of response tokens, in per cent (weight_removed: of the importance weight; long_prompts, "
        "*_groups, overlong: of what the name says; lr_scale: of the full learning rate), mean "
        "over steps and finished seeds. surviving: tokens whose gradient nothing took; those of zero "
        "advantage count. Definitions: docs/metrics.md."
    )
    return Table("receipt", "What the corrections touched", caption, data, shown)


def idle(frame: GridFrame) -> list[Idle]:
    """List everything that an arm was configured to do and did not."""
    return [*inactive(frame), *swallowed(frame)]


def inactive(frame: GridFrame) -> list[Idle]:
    """List each arm's configured corrections that touched no token in any finished cell."""
    warnings: list[Idle] = []
    for arm in frame.arms:
        steps = _training_steps(frame, arm)
        if steps.empty:
            continue
        first = frame.cells[frame.cells["arm"] == arm].iloc[0]
        span = f"in {steps['cell_id'].nunique()} cell(s) × {int(steps['step'].max())} steps"
        warnings += [
            Idle(arm, f"its {bound} touched no token {span}: that bound did nothing.")
            for bound, receipts in dict(first["bounds"]).items()
            if _never(steps, receipts)
        ]
    return warnings


def swallowed(frame: GridFrame) -> list[Idle]:
    """List the perturbed arms of whose noise less than half arrived in the model's dtype."""
    key = "noise/realised_ratio"
    warnings: list[Idle] = []
    for arm in frame.arms:
        steps = _training_steps(frame, arm)
        arrived = steps[key].dropna().to_numpy(float) if key in steps else np.empty(0)
        if len(arrived) and arrived.mean() < _HALF:
            words = (
                f"{number(float(arrived.mean()), 2)} of its noise's standard deviation arrived "
                "(mean over steps of the worst layer): the dtype swallows a sigma this small."
            )
            warnings.append(Idle(arm, words))
    return warnings


def _training_steps(frame: GridFrame, arm: str) -> pd.DataFrame:
    steps = frame.steps
    cells = frame.finished["cell_id"]
    return steps[(steps["arm"] == arm) & (steps["step"] > 0) & steps["cell_id"].isin(cells)]


def _never(steps: pd.DataFrame, keys: tuple[str, ...]) -> bool:
    """Whether every logged one of `keys` stayed at 0; False when none was logged."""
    present = [PREFIX + key for key in keys if PREFIX + key in steps.columns]
    values = steps[present].to_numpy(float)
    return bool(np.isfinite(values).any() and np.nanmax(values) == 0.0)


def _percent(share: float) -> str:
    return number(100 * share, 2)
