"""Share a gap between two log-probs among its causes, when the causes add up to it token by token.

shares = share_out({"weights": a, "kv_cache": b})        # total = a + b
shares.causes["weights"].share, shares.unexplained
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

NO_GAP: Final = 2e-5
"""Standard deviation in nats up to which a gap is float32's own rounding (largest measured: 8e-6)."""
_QUANTILES: Final = (0.01, 0.5, 0.99)


class Cause(NamedTuple):
    """One cause of a gap: its size over tokens, and its part of the gap's variance."""

    sd: float
    """Standard deviation over tokens, nats."""
    p01: float
    p50: float
    p99: float
    alone: float
    """Its variance / the gap's: what it would make alone. NaN where there is no gap."""
    share: float
    """Its covariance with the gap / the gap's variance: shares add up to 1. NaN where there is no gap."""


class GapShares(NamedTuple):
    """A gap, its causes, and how far their variances account for it."""

    total: Cause
    causes: dict[str, Cause]
    n: int
    """Tokens with finite values."""
    together: float
    """Sum of the causes' variances / the gap's variance; 1 where causes do not move together. NaN without a gap."""
    strongest_pair: tuple[str, str] | None
    """The two causes whose covariance is largest in size; None with fewer than two."""
    status: Literal["ok", "none", "nonfinite"]
    """none: no gap beyond float32's rounding; nonfinite: no token has finite values."""


def share_out(causes: Mapping[str, Float[np.ndarray, " tok"]]) -> GapShares:
    """Describe every cause and their sum; tokens with a non-finite value in any cause are left out."""
    stacked = np.stack([np.asarray(values, dtype=np.float64) for values in causes.values()])
    finite = np.isfinite(stacked).all(axis=0)
    kept = stacked[:, finite]
    n = int(finite.sum())
    if not n:
        nothing = Cause(*[np.nan] * 6)
        return GapShares(nothing, dict.fromkeys(causes, nothing), 0, np.nan, None, "nonfinite")
    total = kept.sum(axis=0)
    variance = float(total.var())
    described = {name: _cause(values, total) for name, values in zip(causes, kept, strict=True)}
    gap = float(total.std())
    own = float(kept.var(axis=1).sum())
    together = own / variance if variance > 0 else np.nan
    status: Literal["ok", "none"] = "none" if gap <= NO_GAP else "ok"
    return GapShares(
        _cause(total, total), described, n, together, _pair(list(causes), kept), status
    )


def _cause(values: Float[np.ndarray, " tok"], total: Float[np.ndarray, " tok"]) -> Cause:
    variance = float(total.var())
    p01, p50, p99 = np.quantile(values, _QUANTILES)
    alone = float(values.var()) / variance if variance > 0 else np.nan
    with_total = float(((values - values.mean()) * (total - total.mean())).mean())
    share = with_total / variance if variance > 0 else np.nan
    return Cause(float(values.std()), float(p01), float(p50), float(p99), alone, share)


def _pair(names: list[str], kept: Float[np.ndarray, "cause tok"]) -> tuple[str, str] | None:
    if len(names) < 2:
        return None
    covariance = np.abs(np.cov(kept, ddof=0))
    np.fill_diagonal(covariance, -1.0)
    i, j = np.unravel_index(int(covariance.argmax()), covariance.shape)
    return names[min(i, j)], names[max(i, j)]
