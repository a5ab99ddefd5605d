"""What each arm costs: speed, time per step and where it goes, memory where the run logged it."""

from typing import Final

import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.seeds.verdicts import over_seeds
from alpkit.analysis.tables import Table
from alpkit.analysis.text import interval_text, number, row_dicts

PARTS: Final = ("rollout", "logp_old", "update", "diagnostics", "sync", "records")
_MEMORY: Final = "memory/peak"


def cost_frame(frame: GridFrame) -> pd.DataFrame:
    """A row per finished cell: tokens_per_s, step_s (mean), share of every part, peak memory.

    Evaluation is left out of all of them: how often it happens is the grid's choice, not the arm's.
    """
    steps = frame.steps
    rows = []
    for cell in row_dicts(frame.finished[["arm", "seed", "cell_id"]]):
        own = steps[(steps["cell_id"] == cell["cell_id"]) & (steps["step"] > 0)].set_index("step")
        if "time/step" not in own or own["time/step"].isna().all():
            continue
        evaluation = own["time/eval"].fillna(0.0) if "time/eval" in own else 0.0
        seconds = (own["time/step"] - evaluation).dropna()
        total = float(seconds.sum())
        tokens = float(own["progress/tokens"].max()) if "progress/tokens" in own else float("nan")
        row = {**cell, "tokens_per_s": tokens / total, "step_s": float(seconds.mean())}
        row |= {
            f"{part}_share": float(own[f"time/{part}"].sum()) / total
            for part in PARTS
            if f"time/{part}" in own
        }
        if _MEMORY in own:
            row["peak_gib"] = float(own[_MEMORY].max())
        rows.append(row)
    return pd.DataFrame(rows)


def cost_table(frame: GridFrame) -> Table:
    """One row per arm; the CSV has one per cell."""
    cells = cost_frame(frame)
    shown = []
    for arm in frame.arms if len(cells) else ():
        own = cells[cells["arm"] == arm]
        if own.empty:
            continue
        row = {
            "arm": arm,
            "n": str(len(own)),
            "tokens/s": interval_text(over_seeds(own["tokens_per_s"]), 0),
            "step, s": interval_text(over_seeds(own["step_s"]), 2),
        }
        row |= {
            f"{part}, %": number(100 * float(own[f"{part}_share"].mean()), 1)
            for part in PARTS
            if f"{part}_share" in own
        }
        if "peak_gib" in own:
            row["peak memory, GiB"] = number(float(own["peak_gib"].max()), 2)
        shown.append(row)
    caption = (
        "Wall-clock time without evaluation, on the machine that ran the cell, with whatever else ran "
        "there. tokens/s: response tokens trained on / that time. Parts: share of it; diagnostics is "
        "what measuring costs. Over seeds as in the tables above; peak memory: of the worst step."
    )
    return Table("cost", "Time and memory", caption, cells, pd.DataFrame(shown))
