"""Steadiness of each arm's runs: peaks, spike rates at three limits, and changes of level.

Spikes as the run saw them, without look-ahead, from the metrics alone; level shifts with the whole run
in sight. Which tokens made a spike is in `alpkit.analysis.spike_frame`.
"""

import math
from typing import Final

import numpy as np
import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.tables import Table
from alpkit.analysis.text import DASH, number, row_dicts
from alpkit.diagnostics import LevelShift, SpikeSummary, level_shifts, spike_summary
from alpkit.metrics import WATCHED

_SHOWN: Final = 4  # level shifts that a cell of the table names


def steadiness_frame(frame: GridFrame) -> pd.DataFrame:
    """Lay out a row per finished cell and watched metric: maximum, P99/P50, spike rates, level shifts as text."""
    by_cell = {str(cell): part for cell, part in frame.steps.groupby("cell_id")}
    rows = []
    for cell in row_dicts(frame.finished[["arm", "seed", "cell_id"]]):
        own = by_cell.get(str(cell["cell_id"]), pd.DataFrame())
        for metric in WATCHED:
            if metric not in own or own[metric].isna().all():
                continue
            series = own.set_index("step")[metric].dropna()
            values = series.to_numpy(float)
            shifts = level_shifts(values)
            rows.append(
                {
                    **cell,
                    "metric": metric,
                    **_numbers(spike_summary(values)),
                    "shifts": len(shifts),
                    "shifts_at": "; ".join(_words(shift, series.index) for shift in shifts),
                    "shifts_status": shifts.status,
                }
            )
    return pd.DataFrame(rows)


def steadiness_table(frame: GridFrame) -> Table:
    """Make a row per arm and metric; the CSV has one per cell."""
    cells = steadiness_frame(frame)
    shown = []
    if len(cells):
        for (arm, metric), own in cells.groupby(["arm", "metric"], sort=False):
            shown.append({"arm": str(arm), "metric": str(metric), **_row(own)})
    caption = (
        "Finished cells. P99/P50: of the metric over a run's steps, mean over seeds; 1 is steady. "
        "Spikes: judged steps that stood more than 3, 4 or 6 robust standard deviations above the 50 "
        "steps before, per 1,000; stationary noise gives 0.5 to 0.8 at 4 (docs/tails.md). Level shifts: "
        "steps from which log metric kept another mean (PELT), seed: step (factor); a drift shows as several."
    )
    return Table("steadiness", "Steadiness", caption, cells, pd.DataFrame(shown))


def _numbers(found: SpikeSummary) -> dict[str, object]:
    kept = ("maximum", "p99_over_p50", "rate_3", "rate_4", "rate_6", "judged", "status")
    return {name: getattr(found, name) for name in kept}


def _words(shift: LevelShift, steps: pd.Index) -> str:
    return f"step {steps[shift.at]} (×{math.exp(shift.change):.2g})"


def _row(own: pd.DataFrame) -> dict[str, str]:
    judged = own["judged"].to_numpy(float)
    rates = {
        f"spikes, z > {limit}": number(
            1000 * float(np.nansum(own[f"rate_{limit}"].to_numpy(float) * judged)) / judged.sum(), 1
        )
        if judged.sum()
        else "short"
        for limit in (3, 4, 6)
    }
    shifted = [f"{row['seed']}: {row['shifts_at']}" for row in row_dicts(own) if row["shifts_at"]]
    more = f" and {len(shifted) - _SHOWN} more seeds" if len(shifted) > _SHOWN else ""
    silent = "short" if (own["shifts_status"] != "ok").all() else DASH
    return {
        "n": str(len(own)),
        "largest": number(float(own["maximum"].max()), 4),
        "P99/P50": number(float(own["p99_over_p50"].mean()), 2),
        **rates,
        "level shifts": ("; ".join(shifted[:_SHOWN]) + more) if shifted else silent,
    }
