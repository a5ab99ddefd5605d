"""The ratio's tails per arm: quantiles, k̂, Hill, ESS, share of the largest, with clustered intervals.

Pooled over an arm's finished seeds and all their recorded steps (`alpkit.analysis.reading.pooled`). The ratio is
`ratio/raw`: unperturbed pi_theta over mu, for every arm. Intervals resample prompts (a prompt's tokens
move together), so they speak about this data; what another seed would give is the business of
`alpkit.analysis.seeds.verdicts`.
"""

import math
from typing import Final

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading.items import LEVELS
from alpkit.analysis.reading.pooled import SIDES, Pool
from alpkit.diagnostics import ess_of_sums, tail_size
from alpkit.diagnostics.hill import hill_of_top
from alpkit.diagnostics.tails import Side, khat_of_top

BOOTSTRAP: Final = 200


def tail_frame(frame: GridFrame) -> pd.DataFrame:
    """A row per arm × level × side: n, clusters, quantiles, k̂ with interval and status, Hill, ESS, top 1 %."""
    return pd.DataFrame(
        [
            _row(arm, level, side, frame.pooled[arm].levels[level])
            for arm in frame.arms
            for level in LEVELS
            if level in frame.pooled[arm].levels
            for side in SIDES
        ]
    )


def _row(arm: str, level: str, side: Side, pool: Pool) -> dict[str, object]:
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
    """Quantile q of n items, linear between order statistics, from the largest of them, descending."""
    rank = (1 - q) * (n - 1)
    low = math.floor(rank)
    above, below = top[low], top[min(low + 1, top.size - 1)]
    return float(above + (rank - low) * (below - above))
