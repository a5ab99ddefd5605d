"""Estimate divergences of two policies from the log ratios of sampled tokens: KL, chi-squared, ESS.

Arrays in, plain floats out; numpy only. Everything is formed in log space, so |log ratio| up to 1e4
overflows nowhere; a value beyond float64 is reported as its largest number (as MLflow stores it).
Not here: tails (`tails`), what needs both log-probs (`gaps`), the per-step bundle (`sketch`).

    divergences(logp_train - logp_rollout, sequence)["k3"]
"""

import math
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp

from alpkit.diagnostics.ess import ess
from alpkit.diagnostics.levels import Level, reduce_to_level
from alpkit.diagnostics.overflow import K3_CAP, exp_capped, expm1_capped, log_mean_exp, mean_k3

SATURATION: Final = 20.0
"""Log ratio (nats) at which engines clamp: values there are censored."""
_QUANTILES: Final = {"p01": 0.01, "p02": 0.02, "p50": 0.5, "p98": 0.98, "p99": 0.99, "p999": 0.999}
KEYS: Final = (
    *("n", "nonfinite", "saturated", "below_band", "above_band", *_QUANTILES),
    *("k1", "k2", "k3", "reverse_kl", "chi2", "chi2_self", "ess", "mult_prob_error"),
    *("zero_share", "log_ppl_diff", "log_ppl_diff_abs", "log_ppl_diff_max", "log_ppl_diff_min"),
    "ppl_ratio",
)


def divergences(
    log_ratio: Float[np.ndarray, " tok"],
    sequence: Int[np.ndarray, " tok"],
    *,
    level: Level = "token",
    band: tuple[float, float] = (0.5, 2.0),
) -> dict[str, float]:
    """Estimate from a sample how far the ratio's numerator is from the sampler mu.

    Parameters
    ----------
    log_ratio : d = log numerator - log mu of the sampled tokens, nats; padding already removed.
    sequence : id of each token's sequence.
    level : items that d and x = exp(d) range over; the ppl family is always per sequence.
    band : ratios beyond which items count as outside; verl's [0.5, 2].

    Returns
    -------
    Flat floats, each item counting once: `n` items, of which `nonfinite` are NaN or infinite; `saturated`
    share with |d| >= 20; `below_band`, `above_band` shares of x strictly outside `band`; quantiles of d
    `p01`, `p02`, `p50`, `p98`, `p99`, `p999`, nats; `k1` mean(-d), estimates KL(mu || numerator),
    may be negative; `k2` mean(d^2)/2; `k3` mean(x - 1 - d), above 1e-3 deserves a look;
    `reverse_kl` mean(x d - x + 1), estimates KL(numerator || mu); `chi2` mean(x^2) - 1, above 1 is
    bad, may be negative; `chi2_self` mean(x^2)/mean(x)^2 - 1, never negative; `ess` (sum x)^2/(N sum x^2), a
    share; `mult_prob_error` mean exp|d|, above 1.05 deserves a look; `zero_share` of items with
    d = 0; `log_ppl_diff` mean over sequences of mean_t(-d), with `_abs`, `_max`, `_min`;
    `ppl_ratio` mean over sequences of exp(mean_t(-d)).

    Notes
    -----
    No clamp. Empty input, NaN or an infinite log ratio gives NaN for every key but `n` and `nonfinite`.

    References
    ----------
    Schulman 2020, Approximating KL divergence (k1, k2, k3).
    verl, rollout-correction metrics (ppl family); NeMo-RL (mult_prob_error).
    """
    d = reduce_to_level(log_ratio, sequence, level)
    values = dict.fromkeys(KEYS, math.nan)
    values |= {"n": float(d.size), "nonfinite": float(np.count_nonzero(~np.isfinite(d)))}
    if not d.size or not np.isfinite(d).all():
        return values
    effective = ess(d)
    gap = -reduce_to_level(log_ratio, sequence, "geometric")
    lower, upper = (math.log(edge) if edge > 0 else -math.inf for edge in band)
    return values | {
        "saturated": float(np.mean(np.abs(d) >= SATURATION)),
        "below_band": float(np.mean(d < lower)),
        "above_band": float(np.mean(d > upper)),
        **dict(zip(_QUANTILES, np.quantile(d, list(_QUANTILES.values())).tolist())),
        "k1": float(-d.mean()),
        "k2": float(np.mean(d**2) / 2),
        "k3": mean_k3(d),
        "reverse_kl": _mean_reverse(d),
        "chi2": expm1_capped(log_mean_exp(2 * d)),
        "chi2_self": 1 / effective - 1,
        "ess": effective,
        "mult_prob_error": exp_capped(log_mean_exp(np.abs(d))),
        "zero_share": float(np.mean(d == 0)),
        "log_ppl_diff": float(gap.mean()),
        "log_ppl_diff_abs": float(np.abs(gap).mean()),
        "log_ppl_diff_max": float(gap.max()),
        "log_ppl_diff_min": float(gap.min()),
        "ppl_ratio": exp_capped(log_mean_exp(gap)),
    }


def _mean_reverse(log_ratio: np.ndarray) -> float:
    """Give the mean of x d - x + 1, from the log sum where a ratio is beyond `K3_CAP`."""
    if log_ratio.max() < K3_CAP:
        return float(np.mean(np.exp(log_ratio) * log_ratio - np.expm1(log_ratio)))
    large = log_ratio[log_ratio > 1]
    return exp_capped(float(logsumexp(large, b=large - 1)) - math.log(log_ratio.size))
