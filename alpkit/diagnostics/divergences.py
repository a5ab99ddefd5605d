"""Divergences of two policies from the log ratios of sampled tokens: KL, chi-squared, ESS.

Arrays in, plain floats out; numpy only. Everything is formed in log space, so |log ratio| up to 1e4
overflows nowhere; a value beyond float64 is reported as its largest number (as MLflow stores it).
Not here: tails (`tails`), what needs both log-probs (`gaps`), the per-step bundle (`sketch`).

    divergences(logp_train - logp_rollout, sequence)["k3"]
"""

import math
from typing import Final, Literal, NamedTuple, assert_never

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp

Level = Literal["token", "geometric", "product"]
SATURATION: Final = 20.0
"""Log ratio (nats) at which engines clamp: values there are censored."""
_QUANTILES: Final = {"p01": 0.01, "p02": 0.02, "p50": 0.5, "p98": 0.98, "p99": 0.99, "p999": 0.999}
KEYS: Final = (
    *("n", "nonfinite", "saturated", "below_band", "above_band", *_QUANTILES),
    *("k1", "k2", "k3", "reverse_kl", "chi2", "chi2_self", "ess", "mult_prob_error"),
    *("zero_share", "log_ppl_diff", "log_ppl_diff_abs", "log_ppl_diff_max", "log_ppl_diff_min"),
    "ppl_ratio",
)
_LARGEST: Final = float(np.finfo(np.float64).max)
_LOG_LARGEST: Final = math.log(_LARGEST)


class _PerSequence(NamedTuple):
    total: np.ndarray
    length: np.ndarray


def _per_sequence(log_ratio: np.ndarray, sequence: np.ndarray) -> _PerSequence:
    """Sum and length of each sequence, ascending by id."""
    if not log_ratio.size:
        return _PerSequence(log_ratio, log_ratio)
    # Ids are arbitrary: a stable sort also serves ids that are interleaved or huge.
    order = np.argsort(sequence, kind="stable")
    ids = sequence[order]
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    with np.errstate(invalid="ignore"):
        total = np.add.reduceat(log_ratio[order], starts)
    return _PerSequence(total, np.diff(np.r_[starts, ids.size]).astype(np.float64))


def reduce_to_level(
    log_ratio: Float[np.ndarray, " tok"], sequence: Int[np.ndarray, " tok"], level: Level
) -> Float[np.ndarray, " item"]:
    """Log ratios of the level's items: tokens as they are, or one mean or sum per sequence.

    Parameters
    ----------
    log_ratio : log numerator - log denominator of valid tokens, nats.
    sequence : id of each token's sequence; any integers, in any order.
    level : token (as is), geometric (mean over the sequence), product (sum over the sequence).

    Returns
    -------
    Float64, one per token or one per sequence in ascending order of id.
    """
    values = np.asarray(log_ratio, dtype=np.float64)
    match level:
        case "token":
            return values
        case "geometric":
            total, length = _per_sequence(values, np.asarray(sequence))
            return np.asarray(total / length)
        case "product":
            return _per_sequence(values, np.asarray(sequence)).total
        case _:
            assert_never(level)


def exp_capped(log_value: float) -> float:
    """`exp`, at most the largest float64 instead of an overflow; NaN stays NaN."""
    return _LARGEST if log_value >= _LOG_LARGEST else math.exp(log_value)


def log_mean_exp(values: Float[np.ndarray, " item"]) -> float:
    """Log of the mean of exp(values)."""
    return float(logsumexp(values)) - math.log(values.size)


def mean_k3(log_ratio: Float[np.ndarray, " item"]) -> float:
    """Mean of exp(d) - 1 - d, accurate for tiny d and capped for huge ones."""
    if log_ratio.max() < 500:  # far below overflow even summed over 1e80 items
        return float(np.mean(np.expm1(log_ratio) - log_ratio))
    return exp_capped(log_mean_exp(log_ratio))


def _mean_reverse(log_ratio: np.ndarray) -> float:
    if log_ratio.max() < 500:
        return float(np.mean(np.exp(log_ratio) * log_ratio - np.expm1(log_ratio)))
    large = log_ratio[log_ratio > 1]
    return exp_capped(float(logsumexp(large, b=large - 1)) - math.log(log_ratio.size))


def chi2_and_ess(log_ratio: Float[np.ndarray, " item"]) -> tuple[float, float]:
    """mean(x^2) - 1 (capped) and (sum x)^2 / (N sum x^2) of x = exp(log_ratio)."""
    first, second = log_mean_exp(log_ratio), log_mean_exp(2 * log_ratio)
    chi2 = math.expm1(second) if second < _LOG_LARGEST else _LARGEST
    return chi2, math.exp(min(2 * first - second, 0.0))


def divergences(
    log_ratio: Float[np.ndarray, " tok"],
    sequence: Int[np.ndarray, " tok"],
    *,
    level: Level = "token",
    band: tuple[float, float] = (0.5, 2.0),
) -> dict[str, float]:
    """Sample estimates of how far the numerator policy is from the sampler mu.

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
    chi2, ess = chi2_and_ess(d)
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
        "chi2": chi2,
        "chi2_self": 1 / ess - 1,
        "ess": ess,
        "mult_prob_error": exp_capped(log_mean_exp(np.abs(d))),
        "zero_share": float(np.mean(d == 0)),
        "log_ppl_diff": float(gap.mean()),
        "log_ppl_diff_abs": float(np.abs(gap).mean()),
        "log_ppl_diff_max": float(gap.max()),
        "log_ppl_diff_min": float(gap.min()),
        "ppl_ratio": exp_capped(log_mean_exp(gap)),
    }
