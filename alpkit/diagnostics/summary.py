"""The statistics of one ratio at one level that a run logs every step (`ratio/*`).

Point estimates in one pass over sorted log ratios; intervals and plots are the analysis' business.
"""

import math

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp

from alpkit.diagnostics.divergences import Level, chi2_and_ess, reduce_to_level
from alpkit.diagnostics.tails import SATURATION, Side, fit_khat, hill

_QUANTILES = {"p01": 0.01, "p02": 0.02, "p50": 0.5, "p98": 0.98, "p99": 0.99, "p999": 0.999}


def ratio_summary(
    log_ratio: Float[np.ndarray, " tok"], sequence: Int[np.ndarray, " tok"], *, level: Level
) -> dict[str, float]:
    """Body and tail of one ratio at one level; keys are `alpkit.metrics.RATIO_STATS`.

    Parameters
    ----------
    log_ratio : log of the ratio per valid token, nats; padding already removed.
    sequence : id of each token's sequence.
    level : token, geometric (mean over the sequence) or product (sum over the sequence).

    Returns
    -------
    Only what could be computed: a flat, short or saturated tail has no hill and khat keys; empty or
    non-finite input gives no key at all (the caller counts and masks non-finite log-probs).
    """
    d = np.sort(reduce_to_level(log_ratio, sequence, level))
    if not d.size or not np.isfinite(d).all():
        return {}
    chi2, ess = chi2_and_ess(d)
    quantiles = np.quantile(d, list(_QUANTILES.values()))
    values = {
        "mean": float(d.mean()),
        "std": float(d.std()),
        "min": float(d[0]),
        "max": float(d[-1]),
        **dict(zip(_QUANTILES, quantiles.tolist())),
        "ess": ess,
        "chi2": chi2,
        "top1_share": _top_share(d),
        "saturated": float(np.mean(np.abs(d) >= SATURATION)),
        "zero": float(np.mean(d == 0)),
    }
    return values | _tail(d, "right") | _tail(d, "left")


def _top_share(ascending: np.ndarray) -> float:
    top = math.ceil(ascending.size / 100)
    return math.exp(min(float(logsumexp(ascending[-top:]) - logsumexp(ascending)), 0.0))


def _tail(d: np.ndarray, side: Side) -> dict[str, float]:
    khat = fit_khat(d, side=side, n_boot=0)
    if khat.status not in ("ok", "high"):
        return {}
    return {
        f"hill_{side}": hill(d, khat.n_tail, side=side).estimate,
        f"khat_{side}": khat.estimate,
    }
