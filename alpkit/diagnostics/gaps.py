"""Gaps between two policies in probability, which a log ratio alone does not show.

probability_gap(logp_old, logp_rollout, sequence)["log_correlation"]
"""

import math
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from alpkit.diagnostics.levels import Level, reduce_to_level
from alpkit.diagnostics.overflow import exp_capped, log_mean_exp

KEYS: Final = (
    *("n", "nonfinite", "prob_gap", "prob_gap_max", "prob_gap_std", "prob_gap_signed"),
    *("correlation", "log_correlation", "ppl", "ppl_rollout"),
)


def probability_gap(
    logp: Float[np.ndarray, " tok"],
    logp_rollout: Float[np.ndarray, " tok"],
    sequence: Int[np.ndarray, " tok"],
    *,
    level: Level = "token",
) -> dict[str, float]:
    """Compute the probability gap, correlation and perplexities of a policy pi and the sampler mu.

    Parameters
    ----------
    logp, logp_rollout : log pi and log mu of the sampled tokens, nats; padding already removed.
    sequence : id of each token's sequence.
    level : items that p = exp(log pi) and m = exp(log mu) range over: tokens, or a sequence's geometric
        mean or product; perplexities are always per sequence.

    Returns
    -------
    Flat floats, each item counting once: `n` items, of which `nonfinite` lack a finite log-prob;
    `prob_gap` mean |p - m|, `prob_gap_max`, `prob_gap_std` (of |p - m|), `prob_gap_signed` mean(p - m);
    `correlation` of p and m, which sits near 1 whenever most tokens are near certain;
    `log_correlation` of log p and log m, which does not; `ppl`, `ppl_rollout` mean over sequences of
    exp(-mean_t log p), exp(-mean_t log m).

    Notes
    -----
    Empty or non-finite input gives NaN for every key but `n` and `nonfinite`; a correlation is NaN
    also where one side is constant.

    References
    ----------
    verl, rollout-correction metrics (prob gap, Pearson correlation, perplexities).
    """
    log_p, log_m = (reduce_to_level(values, sequence, level) for values in (logp, logp_rollout))
    found = dict.fromkeys(KEYS, math.nan)
    finite = np.isfinite(log_p) & np.isfinite(log_m)
    found |= {"n": float(finite.size), "nonfinite": float(finite.size - finite.sum())}
    if not finite.size or not finite.all():
        return found
    p, m = np.exp(np.minimum(log_p, 0.0)), np.exp(np.minimum(log_m, 0.0))  # rounding may pass 0
    gap = np.abs(p - m)
    return found | {
        "prob_gap": float(gap.mean()),
        "prob_gap_max": float(gap.max()),
        "prob_gap_std": float(gap.std()),
        "prob_gap_signed": float((p - m).mean()),
        "correlation": correlation(p, m),
        "log_correlation": correlation(log_p, log_m),
        "ppl": exp_capped(log_mean_exp(-reduce_to_level(logp, sequence, "geometric"))),
        "ppl_rollout": exp_capped(
            log_mean_exp(-reduce_to_level(logp_rollout, sequence, "geometric"))
        ),
    }


def correlation(x: Float[np.ndarray, " item"], y: Float[np.ndarray, " item"]) -> float:
    """Compute Pearson's correlation, in [-1, 1]; NaN where one of the two is constant."""
    if not x.size or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    a, b = x - x.mean(), y - y.mean()
    # Scaled first: squares of differences below 1e-154 would vanish.
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float(np.clip((a @ b) / math.sqrt((a @ a) * (b @ b)), -1.0, 1.0))
