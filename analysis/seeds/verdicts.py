"""Judge differences across seeds: intervals, paired differences and verdicts.

A verdict is the paired t over seeds against the arm's control, with Holm over every pair × endpoint
of the grid; below three seeds there is none. Arms are never ranked. `difference` = arm − control,
on the scale that the endpoint names (K3 on log10, because it is a heavy-tailed mean).
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from alpkit.analysis.seeds.scores import FINISHED
from alpkit.config.grid.comparisons import MIN_SEEDS

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
LEVEL: Final = 0.95
_ROUNDING: Final = 1e-12


class Interval(NamedTuple):
    """Seeds' values in one line; `kind` says what low and high are."""

    mean: float
    low: float
    high: float
    n: int
    kind: Literal["t", "range", "single", "none"]
    points: tuple[float, ...]


def over_seeds(values: "Sequence[float] | pd.Series[float] | FloatArray") -> Interval:
    """95 % t interval from three seeds on; with two, their range; with one, itself. NaN is dropped."""
    points = np.asarray(values, dtype=float)
    points = points[np.isfinite(points)]
    n = len(points)
    kept = tuple(float(p) for p in points)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0, "none", kept)
    mean = float(points.mean())
    if n < MIN_SEEDS:
        return Interval(
            mean, float(points.min()), float(points.max()), n, "range" if n > 1 else "single", kept
        )
    half = float(special.stdtrit(n - 1, (1 + LEVEL) / 2) * points.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n, "t", kept)


Topic = Literal["final performance", "tail heaviness", "KL spikes", "distance to the sampler"]


class Endpoint(NamedTuple):
    """A column of `GridFrame.cells` that arms are compared on, and the question that it answers."""

    column: str
    label: str
    short: str
    topic: Topic
    log: bool = False


ENDPOINTS: Final = (
    Endpoint("eval_greedy", "greedy accuracy", "greedy", "final performance"),
    Endpoint("final_reward", "final reward", "reward", "final performance"),
    Endpoint("khat_right", "k̂ of the token ratio", "k̂", "tail heaviness"),
    Endpoint("k3_peak", "log10 of K3's P99 over its median", "log10 peak", "KL spikes", log=True),
    Endpoint("k3_mean", "log10 of the mean K3", "log10 K3", "distance to the sampler", log=True),
    Endpoint("width", "P98 − P2 of the token log ratio", "width", "distance to the sampler"),
)


class Verdict(NamedTuple):
    """One arm against its control on one endpoint; NaN where there was no test.

    status: beyond or within seed noise; `few` seeds, `equal` on every seed, or `unlisted` among the
    tests of the grid's file: no test.
    """

    arm: str
    control: str
    endpoint: str
    points: tuple[float, ...]
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    detectable: float
    status: Literal["beyond", "within", "few", "equal", "unlisted"]

    @property
    def tested(self) -> bool:
        """Whether a test was made."""
        return self.status in ("beyond", "within")

    @property
    def beyond_noise(self) -> bool:
        """Whether the difference is beyond seed noise."""
        return self.status == "beyond"

    @property
    def sentence(self) -> str:
        """The comparison in words with its numbers."""
        return f"{self.arm} − {self.control}, {LABELS[self.endpoint]}: {self.words}"

    @property
    def words(self) -> str:
        """The difference in words with its numbers."""
        n = len(self.points)
        if not self.tested:
            points = " · ".join(f"{p:+.3g}" for p in self.points)
            why = {
                "few": "too few seeds for a test",
                "equal": "no spread over seeds to test against",
                "unlisted": "not among the tests that the grid's file names",
            }
            return f"{points} ({n} shared seed{'s' if n > 1 else ''}): {why[self.status]}."
        size = (
            f"{self.difference:+.3g} [{self.low:+.3g}, {self.high:+.3g}] over {n} seeds, "
            f"Holm p = {self.p_holm:.2g}"
        )
        if self.beyond_noise:
            return f"{size}: beyond seed noise."
        return (
            f"{size}: not told apart from seed noise (this many seeds would find a difference of "
            f"{self.detectable:.2g} four times in five)."
        )


LABELS: Final = {endpoint.column: endpoint.label for endpoint in ENDPOINTS}
SHORT: Final = {endpoint.column: endpoint.short for endpoint in ENDPOINTS}


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment; NaN stays NaN and does not count as a test."""
    values = np.asarray(p, float)
    adjusted = np.full(len(values), np.nan)
    tested = np.flatnonzero(np.isfinite(values))
    running = 0.0
    for rank, index in enumerate(tested[np.argsort(values[tested], kind="stable")]):
        running = max(running, min(1.0, (len(tested) - rank) * values[index]))
        adjusted[index] = running
    return adjusted.tolist()


def smallest_detectable(sd: float, n: int, tests: int) -> float:
    """Difference found with 80 % power at the strictest of `tests` Holm levels, for this spread of pairs."""
    quantiles = special.stdtrit(n - 1, [1 - (1 - LEVEL) / (2 * max(tests, 1)), 0.8])
    return float(quantiles.sum() * sd / np.sqrt(n))


def verdicts(
    cells: pd.DataFrame,
    pairs: Iterable[tuple[str, str]],
    *,
    family: Collection[tuple[str, str]] | None = None,
) -> list[Verdict]:
    """Every (arm, control) on every endpoint that both have on a shared finished seed.

    Tested are those of `family` (None: all) with three shared seeds or more whose paired differences
    have any spread; Holm's adjustment counts these alone.
    """
    wide = {endpoint: _by_seed(cells, endpoint) for endpoint in ENDPOINTS}
    found = [
        (arm, control, endpoint, points)
        for arm, control in pairs
        for endpoint in ENDPOINTS
        if len(points := _difference(wide[endpoint], arm, control))
    ]
    listed = [family is None or pair[:2] in family for pair in found]
    raw = [_p(points) if of_family else np.nan for (*_, points), of_family in zip(found, listed)]
    tests = int(np.isfinite(raw).sum())
    return [
        _verdict(arm, control, endpoint, points, p, adjusted, tests)
        for (arm, control, endpoint, points), p, adjusted in zip(found, raw, holm(raw))
    ]


def _by_seed(cells: pd.DataFrame, endpoint: Endpoint) -> pd.DataFrame:
    """Finished cells' endpoint, a row per seed and a column per arm."""
    if endpoint.column not in cells.columns:
        return pd.DataFrame()
    done = cells[cells["state"] == FINISHED]
    values = done[endpoint.column].astype(float)
    if endpoint.log:
        values = values.where(values > 0).map(np.log10)
    keys = [done["seed"], done["arm"]]
    return values.groupby(keys).mean().unstack()


def _difference(wide: pd.DataFrame, arm: str, control: str) -> FloatArray:
    if arm not in wide or control not in wide:
        return np.empty(0)
    points = np.asarray(wide[arm].to_numpy(float) - wide[control].to_numpy(float))
    kept: FloatArray = points[np.isfinite(points)]
    return kept


def _p(points: FloatArray) -> float:
    few, equal = len(points) < MIN_SEEDS, np.ptp(points) <= _ROUNDING
    if few or equal:
        return np.nan
    t = points.mean() / (points.std(ddof=1) / np.sqrt(len(points)))
    # The distribution itself: scipy.stats' test checks its arguments for a millisecond, per test.
    return float(2 * special.stdtr(len(points) - 1, -abs(t)))


def _verdict(
    arm: str,
    control: str,
    endpoint: Endpoint,
    points: FloatArray,
    p: float,
    p_holm: float,
    tests: int,
) -> Verdict:
    kept = tuple(float(point) for point in points)
    if np.isnan(p):
        status: Literal["few", "equal", "unlisted"] = "equal"
        if len(points) < MIN_SEEDS:
            status = "few"
        elif np.ptp(points) > _ROUNDING:
            status = "unlisted"
        return Verdict(arm, control, endpoint.column, kept, *(np.nan,) * 6, status)
    span = over_seeds(points)
    return Verdict(
        arm,
        control,
        endpoint.column,
        kept,
        span.mean,
        span.low,
        span.high,
        p,
        p_holm,
        smallest_detectable(float(points.std(ddof=1)), len(points), tests),
        "beyond" if p_holm < 1 - LEVEL else "within",
    )
