"""The ratio's tails per arm, from the token records: quantiles, k̂, Hill, ESS, with clustered intervals.

Pooled over an arm's finished seeds and all their recorded steps. The ratio is `ratio/raw`: unperturbed
pi_theta over mu, for every arm. Intervals resample prompts (a prompt's tokens move together), so they
speak about this data; what another seed would give is the business of `analysis.seeds`.
"""

from typing import Final

import numpy as np
import pandas as pd

from alpkit.diagnostics.divergences import chi2_and_ess
from alpkit.diagnostics.tails import Side, fit_khat, hill
from analysis.frames import GridFrame

LEVELS: Final = ("token", "product")
SIDES: Final[tuple[Side, ...]] = ("right", "left")
COLUMNS: Final = ["step", "sample", "prompt", "logp_rollout", "logp_train", "logp_perturbed"]
BOOTSTRAP: Final = 200


def ratios(frame: GridFrame, arm: str, *, perturbed: bool = False) -> dict[str, pd.DataFrame]:
    """Log ratios of one arm per level: `log_ratio`, `log_mu` (of a response: its mean), `cluster`.

    Only finished cells; tokens without both log-probs (non-finite in the sampler) are dropped.
    """
    cells = set(frame.finished["cell_id"])
    tokens = frame.records.tokens(arm=arm, columns=COLUMNS, cells=cells)
    numerator = "logp_perturbed" if perturbed else "logp_train"
    tokens = tokens.assign(
        log_ratio=tokens[numerator].astype(float) - tokens["logp_rollout"].astype(float),
        log_mu=tokens["logp_rollout"].astype(float),
    )
    tokens = tokens[np.isfinite(tokens["log_ratio"].to_numpy(float))]
    cluster = tokens.groupby(["seed", "step", "prompt"], sort=False).ngroup()
    tokens = tokens.assign(cluster=cluster)
    responses = tokens.groupby(["seed", "step", "sample"], sort=False).agg(
        log_ratio=("log_ratio", "sum"), log_mu=("log_mu", "mean"), cluster=("cluster", "first")
    )
    keep = ["log_ratio", "log_mu", "cluster"]
    return {"token": tokens[keep].reset_index(drop=True), "product": responses.reset_index()[keep]}


def tail_frame(frame: GridFrame) -> pd.DataFrame:
    """A row per arm × level × side: n, cells, quantiles, k̂ with interval and status, Hill, ESS."""
    rows = []
    for arm in frame.arms:
        for level, data in ratios(frame, arm).items():
            if len(data):
                rows += [_row(arm, level, side, data) for side in SIDES]
    return pd.DataFrame(rows)


def _row(arm: str, level: str, side: Side, data: pd.DataFrame) -> dict[str, object]:
    log_ratio = data["log_ratio"].to_numpy(float)
    fit = fit_khat(
        log_ratio, side=side, cluster=data["cluster"].to_numpy(), n_boot=BOOTSTRAP, seed=0
    )
    outer = log_ratio if side == "right" else -log_ratio
    p98, p99, p999 = np.quantile(outer, [0.98, 0.99, 0.999])
    return {
        "arm": arm,
        "level": level,
        "side": side,
        "n": len(log_ratio),
        "clusters": int(data["cluster"].nunique()),
        "p98": float(p98),
        "p99": float(p99),
        "p999": float(p999),
        "max": float(outer.max()),
        "khat": fit.estimate,
        "khat_low": fit.low,
        "khat_high": fit.high,
        "n_tail": fit.n_tail,
        "status": str(fit.status),
        "hill": float(hill(log_ratio, fit.n_tail, side=side).estimate),
        "ess": chi2_and_ess(outer)[1],
    }
