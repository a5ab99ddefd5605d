"""Tables of the report: raw numbers for the CSV, the same numbers as text for people.

Means over seeds never stand alone: with three seeds or more a 95 % t interval follows, with two both
points are shown, and n is always a column.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd

from alpkit.analysis.frames import FINISHED, GridFrame
from alpkit.analysis.seeds.scores import EVALUATIONS, SCORES, WINDOW
from alpkit.analysis.seeds.verdicts import LABELS, Verdict, over_seeds
from alpkit.analysis.table import (
    DASH,
    Table,
    first_line,
    interval_text,
    number,
    records,
    signed_points,
    with_bounds,
)

RESULTS: Final = (
    "final_reward",
    "eval_greedy",
    "eval_greedy_change",
    "eval_avg_at_k",
    "eval_avg_at_k_change",
)
DIVERGENCES: Final = ("k1_mean", "k1_max", "k3_mean", "k3_max")
SPREADS: Final = ("width", "width_product", "ess", "ess_product")


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


def tails_table(tails: pd.DataFrame, rates: Mapping[str, tuple[int, int]]) -> Table:
    """k̂, Hill, extreme quantiles per arm, level and side; `rates`: arm -> (spikes, judged steps)."""
    per_thousand = {arm: 1000 * count / steps for arm, (count, steps) in rates.items()}
    if len(tails):
        tails = tails.assign(spikes_per_1000=tails["arm"].map(per_thousand))
    caption = (
        "From the token records, pooled over finished seeds and recorded steps. Right: the ratio; "
        "left: its inverse. k̂ with its 90 % bootstrap over prompts: this data's uncertainty, not "
        "that of another seed. Status: ok; high = above min(1 − 1/log10 n, 0.7), means of ratios "
        "cannot be trusted; flat = no spread to fit, good news; short = too few points; saturated "
        "= cut by a clamp or by equal values (the same response sampled again), so k̂ is too low. "
        "Quantiles are of the log ratio (left: of its negative). Top 1 %: share in per cent of the sum "
        "of ratios (left: of inverses) that the largest hundredth holds. Spikes: steps on "
        "which K3 or its largest update spiked, per 1,000 judged steps of the arm."
    )
    shown = pd.DataFrame(
        [
            {
                "arm": row["arm"],
                "level": row["level"],
                "side": row["side"],
                "k̂ [90 %]": with_bounds(row["khat"], row["khat_low"], row["khat_high"], 2),
                "status": row["status"],
                "Hill": number(row["hill"], 2),
                "P98": number(row["p98"], 2),
                "P99.9": number(row["p999"], 2),
                "max": number(row["max"], 2),
                "ESS": number(row["ess"], 3),
                "top 1 %": number(100 * row["top1_share"], 1),
                "spikes / 1,000": number(row["spikes_per_1000"], 0),
                "n": f"{row['n']:,}",
                "tail": f"{row['n_tail']:,}",
                "prompts": f"{row['clusters']:,}",
            }
            for row in records(tails)
        ]
    )
    return Table("tails", "Tails of the ratio", caption, tails, shown)


def differences_table(found: Sequence[Verdict]) -> Table:
    """Every seed's difference to the control, and the test where there are seeds enough for one."""
    data = [
        {"arm": v.arm, "control": v.control, "endpoint": v.endpoint, "n": len(v.points)}
        | {"points": ";".join(f"{p:.6g}" for p in v.points), "difference": v.difference}
        | {"low": v.low, "high": v.high, "p": v.p, "p_holm": v.p_holm}
        | {"detectable": v.detectable, "status": v.status}
        for v in found
    ]
    shown = pd.DataFrame(
        [
            {
                "arm − control": f"{v.arm} − {v.control}",
                "endpoint": LABELS[v.endpoint],
                "n": str(len(v.points)),
                "per seed": signed_points(v.points),
                "mean [95 %]": _signed(v),
                "Holm p": _p(v.p_holm),
                "detectable": _p(v.detectable),
            }
            for v in found
        ]
    )
    if found and not any(v.tested for v in found):
        shown = shown.drop(columns=["mean [95 %]", "Holm p", "detectable"])
    caption = (
        "Arm − control, seed by seed (arms of a seed share prompts and draws). Tests: paired t over "
        "seeds from three seeds on, Holm over every tested row. Detectable: the difference that this "
        "spread and n would show four times in five at the strictest Holm level. The intervals are "
        "not adjusted for the number of rows."
    )
    return Table("differences", "Paired differences", caption, pd.DataFrame(data), shown)


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
    if (shown["error"] == DASH).all():
        shown = shown.drop(columns="error")
    caption = "Only finished cells enter tables and means."
    return Table("cells", "Cells", caption, data, shown)


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


def _signed(test: Verdict) -> str:
    if not np.isfinite(test.difference):
        return DASH
    return f"{test.difference:+.3g} [{test.low:+.3g}, {test.high:+.3g}]"


def _p(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else DASH
