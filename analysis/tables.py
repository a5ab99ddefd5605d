"""Tables of the report: raw numbers for the CSV, the same numbers as text for people.

Means over seeds never stand alone: with three seeds or more a 95 % t interval follows, with two both
points are shown, and n is always a column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from analysis.frames import FINISHED, GridFrame
from analysis.scores import EVALUATIONS, SCORES, WINDOW
from analysis.seeds import ENDPOINTS, NO_TEST, Interval, Verdict, over_seeds, paired

DASH: Final = "–"
RESULTS: Final = (
    "final_reward",
    "eval_greedy",
    "eval_greedy_change",
    "eval_avg_at_k",
    "eval_avg_at_k_change",
)
DIVERGENCES: Final = ("k1_mean", "k1_max", "k3_mean", "k3_max")
SPREADS: Final = ("width", "width_product", "ess", "ess_product")


@dataclass(frozen=True)
class Table:
    """`data` is what the CSV holds, `shown` the same rows as text."""

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    shown: pd.DataFrame

    def markdown(self) -> str:
        """A pipe table; '' rows never occur, empty tables are one line of words."""
        if self.shown.empty:
            return "Nothing to show.\n"
        rows = [list(self.shown.columns), ["---"] * self.shown.shape[1], *self.shown.to_numpy()]
        lines = ("| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows)
        return "\n".join(lines) + "\n"


def results_table(frame: GridFrame) -> Table:
    """Reward and held-out accuracy per arm."""
    caption = (
        f"Finished cells only. Final reward: mean of the last {WINDOW} steps. Evaluations: mean of "
        f"those in the last {WINDOW} steps, and of the last {EVALUATIONS} where fewer fall there. "
        f"Change: against the same cell's evaluation before training. {_intervals(frame)}"
    )
    return _per_arm(frame, "results", "Reward and accuracy", caption, RESULTS)


def divergence_table(frame: GridFrame) -> Table:
    """K1 and K3 per arm."""
    caption = (
        "The unperturbed π_θ against µ, in nats, for every arm: mean over all training steps, and "
        f"the largest step. Then over seeds. {_intervals(frame)}"
    )
    return _per_arm(frame, "divergence", "Distance to the sampler", caption, DIVERGENCES)


def spread_table(frame: GridFrame) -> Table:
    """Width of the log ratio and effective sample size per arm."""
    caption = (
        "The same ratio, mean over all training steps. P98 − P2: width of the log ratio in nats, per "
        "token and per response (product over its tokens). ESS: effective share of the batch, 1 on "
        f"policy. {_intervals(frame)}"
    )
    return _per_arm(frame, "spread", "Spread of the ratio", caption, SPREADS)


def tails_table(tails: pd.DataFrame) -> Table:
    """k̂, Hill, extreme quantiles per arm, level and side."""
    caption = (
        "From the token records, pooled over finished seeds and recorded steps. Right: the ratio; "
        "left: its inverse. k̂ with its 90 % bootstrap over prompts: this data's uncertainty, not "
        "that of another seed. Status: ok; high = above min(1 − 1/log10 n, 0.7), means of ratios "
        "cannot be trusted; flat = no spread to fit, good news; short = too few points; saturated "
        "= cut by a clamp or by equal values (the same response sampled again), so k̂ is too low. "
        "Quantiles are of the log ratio (left: of its negative)."
    )
    shown = pd.DataFrame(
        [
            {
                "arm": row["arm"],
                "level": row["level"],
                "side": row["side"],
                "k̂ [90 %]": _with_bounds(row["khat"], row["khat_low"], row["khat_high"], 2),
                "status": row["status"],
                "Hill": number(row["hill"], 2),
                "P98": number(row["p98"], 2),
                "P99.9": number(row["p999"], 2),
                "max": number(row["max"], 2),
                "ESS": number(row["ess"], 3),
                "n": f"{row['n']:,}",
                "tail": f"{row['n_tail']:,}",
                "prompts": f"{row['clusters']:,}",
            }
            for row in records(tails)
        ]
    )
    return Table("tails", "Tails of the ratio", caption, tails, shown)


def differences_table(frame: GridFrame, found: Sequence[Verdict]) -> Table:
    """Every seed's difference to the control, and the test where there are seeds enough for one."""
    tests = {(v.arm, v.control, v.endpoint): v for v in found}
    data, shown = [], []
    for arm, control in frame.grid.controls.items():
        for endpoint in ENDPOINTS:
            pairs = paired(frame.cells, arm, control, endpoint)
            if not len(pairs):
                continue
            test = tests.get((arm, control, endpoint.column), NO_TEST)
            points = ";".join(f"{p:.6g}" for p in pairs)
            data.append(
                {"arm": arm, "control": control, "endpoint": endpoint.column, "n": len(pairs)}
                | {"points": points, "difference": test.difference, "low": test.low}
                | {"high": test.high, "p": test.p, "p_holm": test.p_holm}
                | {"detectable": test.detectable}
            )
            shown.append(
                {
                    "arm − control": f"{arm} − {control}",
                    "endpoint": endpoint.label,
                    "n": str(len(pairs)),
                    "per seed": " · ".join(f"{p:+.3g}" for p in pairs),
                    "mean [95 %]": _signed(test),
                    "Holm p": _p(test.p_holm),
                    "detectable": _p(test.detectable),
                }
            )
    columns = pd.DataFrame(shown)
    if not found and shown:
        columns = columns.drop(columns=["mean [95 %]", "Holm p", "detectable"])
    caption = (
        "Arm − control, seed by seed (arms of a seed share prompts and draws). Tests: paired t over "
        "seeds from three seeds on, Holm over every tested row. Detectable: the difference that this "
        "spread and n would show four times in five at the strictest Holm level. The intervals are "
        "not adjusted for the number of rows."
    )
    return Table("differences", "Paired differences", caption, pd.DataFrame(data), columns)


def cells_table(frame: GridFrame) -> Table:
    """Every cell with its state; failures are listed, never averaged over."""
    columns = ["arm", "seed", "state", "steps_done", "steps_planned", "cell_id", "run_id", "error"]
    data = frame.cells[columns]
    steps = [
        f"{done} of {int(planned)}" if pd.notna(planned) else str(done)
        for done, planned in zip(data["steps_done"], data["steps_planned"])
    ]
    shown = pd.DataFrame(
        {
            "arm": data["arm"],
            "seed": data["seed"].astype(str),
            "state": data["state"],
            "steps": steps,
            "cell": data["cell_id"],
            "error": [first_line(text) for text in data["error"]],
        }
    )
    if not shown["error"].str.strip(DASH).any():
        shown = shown.drop(columns="error")
    caption = "Only finished cells enter tables and means."
    return Table("cells", "Cells", caption, data, shown)


def records(data: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as mappings, whose values mypy lets through."""
    return [{str(k): v for k, v in row.items()} for row in data.to_dict("records")]


def number(value: float, digits: int) -> str:
    """Fixed digits; scientific where those would show nothing; a dash for NaN."""
    if not np.isfinite(value):
        return DASH
    if value != 0 and (abs(value) < 0.5 * 10.0**-digits or abs(value) >= 1e5):
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


def interval_text(interval: Interval, digits: int) -> str:
    """Mean [low, high] from three seeds on, both points with two, the value with one."""
    match interval.kind:
        case "none":
            return DASH
        case "t":
            return _with_bounds(interval.mean, interval.low, interval.high, digits)
        case "single" | "range":
            return " · ".join(number(point, digits) for point in interval.points)


def _per_arm(
    frame: GridFrame, name: str, title: str, caption: str, columns: Sequence[str]
) -> Table:
    data, shown = [], []
    for arm in frame.arms:
        own = frame.cells[frame.cells["arm"] == arm]
        finished = own[own["state"] == FINISHED]
        raw: dict[str, object] = {"arm": arm, "n": len(finished), "cells": len(own)}
        text = {"arm": arm, "n": str(len(finished))}
        for column in columns:
            interval = over_seeds(finished[column])
            raw |= {f"{column}_{part}": getattr(interval, part) for part in ("mean", "low", "high")}
            raw[f"{column}_interval"] = interval.kind
            raw[f"{column}_points"] = ";".join(f"{p:.9g}" for p in interval.points)
            text[SCORES[column].label] = interval_text(interval, SCORES[column].digits)
        data.append(raw)
        shown.append(text)
    return Table(name, title, caption, pd.DataFrame(data), pd.DataFrame(shown))


def _intervals(frame: GridFrame) -> str:
    counts = frame.finished.groupby("arm").size()
    most = int(counts.max()) if len(counts) else 0
    if most >= 3:
        return "Mean over seeds [95 % t interval]; with two seeds both points. n: finished seeds."
    if most == 2:
        return "Two seeds: both points, no mean and no interval. n: finished seeds."
    return "One seed or none per arm: no statement about seed noise is possible. n: finished seeds."


def _with_bounds(value: float, low: float, high: float, digits: int) -> str:
    if not np.isfinite(value):
        return DASH
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def _signed(test: Verdict) -> str:
    if not np.isfinite(test.difference):
        return DASH
    return f"{test.difference:+.3g} [{test.low:+.3g}, {test.high:+.3g}]"


def _p(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else DASH


def first_line(text: str) -> str:
    """What an error says, without its traceback."""
    return text.strip().splitlines()[0][:160] if text.strip() else DASH
