"""Cost of each arm: speed, time per step and where it goes, memory where the run logged it."""

from typing import Final

import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.seeds.verdicts import over_seeds
from alpkit.analysis.tables import Table
from alpkit.analysis.text import interval_text, number, row_dicts

PARTS: Final = ("rollout", "logp_old", "update", "diagnostics", "sync", "records")
_MEMORY: Final = "memory/peak"


def cost_frame(frame: GridFrame) -> pd.DataFrame:
    """Lay out a row per finished cell: tokens_per_s, step_s (mean), share of every part, peak memory.

    Evaluation is left out of all of them: how often it happens is the grid's choice, not the arm's.
    """
    steps = frame.steps
    rows = []
    for cell in row_dicts(frame.finished[["arm", "seed", "cell_id"]]):
        trained = steps[(steps["cell_id"] == cell["cell_id"]) & (steps["step"] > 0)].set_index(
            "step"
        )
        if "time/step" not in trained or trained["time/step"].isna().all():
            continue
        evaluation = trained["time/eval"].fillna(0.0) if "time/eval" in trained else 0.0
        seconds = (trained["time/step"] - evaluation).dropna()
        total = float(seconds.sum())
        tokens = (
            float(trained["progress/tokens"].max())
            if "progress/tokens" in trained
            else float("nan")
        )
        row = {**cell, "tokens_per_s": tokens / total, "step_s": float(seconds.mean())}
        row |= {
            f"{part}_share": float(trained[f"time/{part}"].sum()) / total
            for part in PARTS
            if f"time/{part}" in trained
        }
        if _MEMORY in trained:
            row["peak_gib"] = float(trained[_MEMORY].max())
        rows.append(row)
    return pd.DataFrame(rows)


def cost_table(frame: GridFrame) -> Table:
    """Make a row per arm; the CSV has one per cell."""
    cells = cost_frame(frame)
    shown = []
    for arm in frame.arms if len(cells) else ():
        cells_of_arm = cells[cells["arm"] == arm]
        if cells_of_arm.empty:
            continue
        row = {
            "arm": arm,
            "n": str(len(cells_of_arm)),
            "tokens/s": interval_text(over_seeds(cells_of_arm["tokens_per_s"]), 0),
            "step, s": interval_text(over_seeds(cells_of_arm["step_s"]), 2),
        }
        row |= {
            f"{part}, %": number(100 * float(cells_of_arm[f"{part}_share"].mean()), 1)
            for part in PARTS
            if f"{part}_share" in cells_of_arm
        }
        if "peak_gib" in cells_of_arm:
            row["peak memory, GiB"] = number(float(cells_of_arm["peak_gib"].max()), 2)
        shown.append(row)
    caption = (
        "Wall-clock time without evaluation, on the machine that ran the cell, with whatever else ran "
        "there. tokens/s: response tokens trained on / that time. Parts: share of it; diagnostics is "
        "what measuring costs. Over seeds as in the tables above; peak memory: of the worst step."
    )
    return Table("cost", "Time and memory", caption, cells, pd.DataFrame(shown))
