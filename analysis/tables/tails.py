"""The ratio's tails per arm: quantiles, k̂, Hill, ESS, share of the largest, with clustered intervals.

Pooled over an arm's finished seeds and all their recorded steps (`alpkit.analysis.reading.pooled`). The ratio is
`ratio/raw`: unperturbed pi_theta over mu, for every arm. Intervals resample prompts (a prompt's tokens
move together), so they speak about this data; what another seed would give is the business of
`alpkit.analysis.seeds.verdicts`.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading.items import LEVELS
from alpkit.analysis.reading.pooled import SIDES, Pool
from alpkit.analysis.tables import Table
from alpkit.analysis.text import number, row_dicts, with_bounds
from alpkit.diagnostics import ess_of_sums, tail_size
from alpkit.diagnostics.hill import hill_of_top
from alpkit.diagnostics.tails import Side, khat_of_top

BOOTSTRAP: Final = 200


def tail_frame(frame: GridFrame) -> pd.DataFrame:
    """Lay out a row per arm × level × side: n, clusters, quantiles, k̂ with interval and status, Hill, ESS, top 1 %."""
    return pd.DataFrame(
        [
            tail_row(arm, level, side, frame.pooled[arm].levels[level])
            for arm in frame.arms
            for level in LEVELS
            if level in frame.pooled[arm].levels
            for side in SIDES
        ]
    )


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
                "k̂ [90 %]": with_bounds(
                    row.number("khat"), row.number("khat_low"), row.number("khat_high"), 2
                ),
                "status": row["status"],
                "Hill": number(row.number("hill"), 2),
                "P98": number(row.number("p98"), 2),
                "P99.9": number(row.number("p999"), 2),
                "max": number(row.number("max"), 2),
                "ESS": number(row.number("ess"), 3),
                "top 1 %": number(100 * row.number("top1_share"), 1),
                "spikes / 1,000": number(row.number("spikes_per_1000"), 0),
                "n": f"{row['n']:,}",
                "tail": f"{row['n_tail']:,}",
                "prompts": f"{row['clusters']:,}",
            }
            for row in row_dicts(tails)
        ]
    )
    return Table("tails", "Tails of the ratio", caption, tails, shown)


def tail_row(arm: str, level: str, side: Side, pool: Pool) -> dict[str, object]:
    """Give one side of a pool's tail as a row of `tail_frame`."""
    top, cluster = pool.top[side]
    n_tail = tail_size(pool.n)
    fit = khat_of_top(
        top,
        n=pool.n,
        n_tail=n_tail,
        owner=cluster,
        clusters=pool.clusters,
        n_boot=BOOTSTRAP,
        seed=0,
    )
    first, second = pool.log_sums[side]
    largest = float(logsumexp(top[: math.ceil(pool.n / 100)]))
    return {
        "arm": arm,
        "level": level,
        "side": side,
        "n": pool.n,
        "clusters": pool.clusters,
        "p98": upper_quantile(top, pool.n, 0.98),
        "p99": upper_quantile(top, pool.n, 0.99),
        "p999": upper_quantile(top, pool.n, 0.999),
        "max": float(top[0]),
        "khat": fit.estimate,
        "khat_low": fit.low,
        "khat_high": fit.high,
        "n_tail": fit.n_tail,
        "status": str(fit.status),
        "hill": float(hill_of_top(top, fit.n_tail, n=pool.n).estimate),
        "ess": ess_of_sums(first, second, pool.n),
        "top1_share": math.exp(min(largest - first, 0.0)),
    }


def upper_quantile(top: np.ndarray, n: int, q: float) -> float:
    """Compute the quantile q of n items, linear between order statistics, from the largest of them, descending."""
    rank = (1 - q) * (n - 1)
    low = math.floor(rank)
    above, below = top[low], top[min(low + 1, top.size - 1)]
    return float(above + (rank - low) * (below - above))
