"""Split the log ratio's width and tail between its factors: mismatch, staleness, perturbation.

Takes the four log-probs of the same tokens, so that the factors add up to the total item by item.

    decompose(logp_rollout=mu, logp_old=old, logp_train=train).tail_share["mismatch"]
"""

import math
from itertools import combinations
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alpkit.diagnostics.gaps import correlation
from alpkit.diagnostics.levels import Level, reduce_to_level
from alpkit.errors import AlpkitError

_TAIL: Final = 0.01


class Decomposition(NamedTuple):
    """Part of each factor in the log ratio's spread and tail; NaN where `status` says why."""

    variance: dict[str, float]
    """nats^2 over items of mismatch, staleness, perturbation (if given) and total."""
    tail_share: dict[str, float]
    """Each factor's share of the total log ratio over the 1 % largest |total|; shares add to 1. A
    negative share means that the factor pulled against the total."""
    correlation: dict[str, float]
    """Pearson correlation per pair, as "mismatch:staleness"; absent where a factor has no spread."""
    n: int
    n_tail: int
    """Items in the tail; more than 1 % where several tie at its edge."""
    status: Literal["ok", "flat", "short", "nonfinite"]
    """flat: the total is 0 everywhere, so no tail; short: no items; nonfinite: nothing computed."""


def decompose(
    *,
    logp_rollout: Float[np.ndarray, " tok"],
    logp_old: Float[np.ndarray, " tok"],
    logp_train: Float[np.ndarray, " tok"],
    logp_perturbed: Float[np.ndarray, " tok"] | None = None,
    level: Level = "token",
    sequence: Int[np.ndarray, " tok"] | None = None,
) -> Decomposition:
    """Measure each factor's share of the variance and of the tail of log pi_theta(,delta) - log mu.

    Parameters
    ----------
    logp_rollout, logp_old, logp_train : log mu, log pi_old and log pi_theta of valid tokens, nats.
    logp_perturbed : log pi_theta,delta, nats; given, perturbation becomes the third factor.
    level : token, geometric (mean over the sequence) or product (sum over the sequence).
    sequence : id of each token's sequence; needed at the geometric and product level.

    Notes
    -----
    total = mismatch + staleness (+ perturbation), so var(total) = sum of the variances + twice the
    covariances. Share of a factor f in the tail T: sum_T f sign(total) / sum_T |total|.

    Raises
    ------
    AlpkitError : a level other than token without `sequence`.
    """
    if sequence is None:
        if level != "token":
            raise AlpkitError(
                f"the {level} level needs `sequence`",
                where="decompose",
                why="log ratios are reduced over the tokens of one response",
                fix="pass the id of each token's response",
            )
        sequence = np.arange(logp_rollout.size)
    steps = {
        "mismatch": (logp_old, logp_rollout),
        "staleness": (logp_train, logp_old),
    }
    if logp_perturbed is not None:
        steps["perturbation"] = (logp_perturbed, logp_train)
    with np.errstate(invalid="ignore"):
        factors = {
            name: reduce_to_level(
                np.asarray(over, float) - np.asarray(under, float), sequence, level
            )
            for name, (over, under) in steps.items()
        }
        total = np.asarray(sum(factors.values()))
    return _of_factors(factors, total)


def _of_factors(factors: dict[str, np.ndarray], total: np.ndarray) -> Decomposition:
    nothing = dict.fromkeys(factors, math.nan)
    if not total.size or not all(np.isfinite(values).all() for values in factors.values()):
        status: Literal["short", "nonfinite"] = "nonfinite" if total.size else "short"
        return Decomposition({**nothing, "total": math.nan}, nothing, {}, total.size, 0, status)
    variance = {name: float(np.var(v)) for name, v in {**factors, "total": total}.items()}
    pairs = {f"{a}:{b}": correlation(factors[a], factors[b]) for a, b in combinations(factors, 2)}
    correlations = {pair: value for pair, value in pairs.items() if not math.isnan(value)}
    size = np.abs(total)
    edge = np.partition(size, -math.ceil(_TAIL * size.size))[-math.ceil(_TAIL * size.size)]
    if edge == 0.0 and not size.any():
        return Decomposition(variance, nothing, correlations, total.size, 0, "flat")
    # Items that tie with the edge are in, so that the order of the items decides nothing.
    tail = (size >= edge) & (size > 0)
    weight = size[tail].sum()
    share = {
        name: float((values[tail] * np.sign(total[tail])).sum() / weight)
        for name, values in factors.items()
    }
    return Decomposition(variance, share, correlations, total.size, int(tail.sum()), "ok")
