"""What may be said across seeds: intervals, paired differences, and verdicts in words.

A verdict is the paired t over seeds against the arm's control, with Holm over every arm × endpoint
of the grid; below three seeds there is none. Arms are never ranked. `difference` = arm − control,
on the scale that the endpoint names (K3 on log10, because it is a heavy-tailed mean).
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
MIN_SEEDS: Final = 3
LEVEL: Final = 0.95


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
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * points.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n, "t", kept)


class Endpoint(NamedTuple):
    """A column of `GridFrame.cells` that arms are compared on."""

    column: str
    label: str
    log: bool = False


ENDPOINTS: Final = (
    Endpoint("eval_greedy", "greedy accuracy"),
    Endpoint("final_reward", "final reward"),
    Endpoint("k3_mean", "log10 of the mean K3", log=True),
    Endpoint("width", "P98 − P2 of the token log ratio"),
    Endpoint("khat_right", "k̂ of the token ratio"),
)


class Verdict(NamedTuple):
    """One arm against its control on one endpoint."""

    arm: str
    control: str
    endpoint: str
    n: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    detectable: float
    beyond_noise: bool
    sentence: str


NO_TEST: Final = Verdict("", "", "", 0, *(np.nan,) * 6, False, "")


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
    quantiles = stats.t.ppf([1 - (1 - LEVEL) / (2 * max(tests, 1)), 0.8], n - 1)
    return float(quantiles.sum() * sd / np.sqrt(n))


def verdicts(cells: pd.DataFrame, controls: Mapping[str, str]) -> list[Verdict]:
    """Every arm against its control on every endpoint; only pairs with three shared finished seeds.

    An endpoint whose paired differences have no spread at all is left out: no noise, no test.
    """
    found = []
    for arm, control in controls.items():
        for endpoint in ENDPOINTS:
            pairs = paired(cells, arm, control, endpoint)
            if len(pairs) >= MIN_SEEDS and np.ptp(pairs) > 1e-12:
                found.append((arm, control, endpoint, pairs))
    raw = [float(stats.ttest_1samp(pairs, 0.0).pvalue) for *_, pairs in found]
    rows = []
    for (arm, control, endpoint, pairs), p, adjusted in zip(found, raw, holm(raw)):
        difference = over_seeds(pairs)
        least = smallest_detectable(float(pairs.std(ddof=1)), len(pairs), len(raw))
        beyond = adjusted < 1 - LEVEL
        sentence = _sentence(arm, control, endpoint, difference, adjusted, least, beyond)
        rows.append(
            Verdict(
                arm,
                control,
                endpoint.column,
                len(pairs),
                difference.mean,
                difference.low,
                difference.high,
                p,
                adjusted,
                least,
                beyond,
                sentence,
            )
        )
    return rows


def paired(cells: pd.DataFrame, arm: str, control: str, endpoint: Endpoint) -> FloatArray:
    """Arm − control per shared seed of finished cells, in seed order."""
    if endpoint.column not in cells.columns:
        return np.empty(0)
    done = cells[cells["state"] == "finished"]
    sides = [
        done[done["arm"] == name].groupby("seed")[endpoint.column].mean() for name in (arm, control)
    ]
    joined = pd.concat(sides, axis=1, join="inner").sort_index()
    values: FloatArray = joined.to_numpy(float)
    if endpoint.log:
        values = np.log10(np.where(values > 0, values, np.nan))
    difference: FloatArray = np.subtract(values[:, 0], values[:, 1])
    kept: FloatArray = difference[np.isfinite(difference)]
    return kept


def _sentence(
    arm: str,
    control: str,
    endpoint: Endpoint,
    difference: Interval,
    p: float,
    least: float,
    beyond: bool,
) -> str:
    size = (
        f"{arm} − {control}, {endpoint.label}: {difference.mean:+.3g} "
        f"[{difference.low:+.3g}, {difference.high:+.3g}] over {difference.n} seeds, Holm p = {p:.2g}"
    )
    if beyond:
        return f"{size}: beyond seed noise."
    return (
        f"{size}: not told apart from seed noise "
        f"(this many seeds would find a difference of {least:.2g} four times in five)."
    )
