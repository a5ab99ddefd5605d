"""Every spike of a grid: how high, which tokens made it, and what training did around it."""

import numpy as np
import pandas as pd

from alpkit.analysis.spike_frame import AROUND, NEAR, TIMES, SpikeLog
from alpkit.analysis.tables import Table
from alpkit.analysis.text import DASH, number, row_dicts


def spikes_table(log: SpikeLog) -> Table:
    """Make a row per spike."""
    has = [key for key in AROUND if log.rows[f"{key}_at"].notna().any()]
    shown = [
        {
            "arm": row["arm"],
            "seed": str(row["seed"]),
            "step": str(row["step"]),
            "metric": row["metric"],
            "value": number(row.number("value"), 4),
            "z": number(row.number("z"), 1),
            "top token": _percent(row.number("tokens_1")),
            "top 10": _percent(row.number("tokens_10")),
            "top response": _percent(row.number("sequences_1")),
            "its token": _token(row["token"], row.number("log_ratio")),
            **{
                AROUND[key]: " → ".join(number(row.number(f"{key}_{time}"), 3) for time in TIMES)
                for key in has
            },
        }
        for row in row_dicts(log.rows)
    ]
    caption = (
        "Steps on which log K3, its largest update or the gradient norm stood more than 4 robust "
        "standard deviations above the 50 steps before. Top token, top 10, top response: their share "
        "of the step's sum of the metric's terms; its token: the largest one and its log ratio. Then "
        f"mean of the {NEAR} steps before → the step → mean of the {NEAR} after."
    )
    return Table("spikes", "Every spike", caption, log.rows, pd.DataFrame(shown))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if np.isfinite(share) else DASH


def _token(text: object, log_ratio: float) -> str:
    if not isinstance(text, str):
        return DASH
    # A blank or a line break would be nothing to see.
    return f"{text!r} ({log_ratio:+.2f})"
