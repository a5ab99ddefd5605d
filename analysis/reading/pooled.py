"""Read an arm's records once, keeping all that tables and figures of its tails need, in bounded memory.

Steps come one at a time (`alpkit.analysis.reading.records.Batch`) and are reduced at once: the largest items of either
side with their prompts (k-hat, Hill, quantiles, Q-Q: exact), counts on a log grid (CCDF: exact, its band
resampled on the way), log sums (ESS), a uniform sample for the envelope (everything up to `SAMPLE` items),
and k-hat and the factors of a few recorded steps. Not here: rows of tables (`alpkit.analysis.tables.tails`).
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from scipy.special import logsumexp

from alpkit.analysis.reading.items import COLUMNS, LEVELS, Items, StepItems, step_items
from alpkit.analysis.reading.records import Records
from alpkit.analysis.reading.reducers import (
    BINS,
    Curve,
    Largest,
    Sample,
    Survival,
    Top,
    bin_of,
    survival,
)
from alpkit.diagnostics import Decomposition, TailFit, decompose, fit_khat, tail_size
from alpkit.diagnostics.levels import Level
from alpkit.diagnostics.tails import Side

SIDES: Final[tuple[Side, ...]] = ("right", "left")
SAMPLE: Final = 1 << 18
"""Items per arm and level that an envelope is drawn from."""
STEPS: Final = 12
"""Recorded steps per arm that get a k-hat with an interval and a decomposition, spread over the run."""
STEP_RESAMPLES: Final = 100
_FOLLOWED: Final[tuple[Level, ...]] = ("token", "product")


class Pool(NamedTuple):
    """An arm at one level, pooled over its finished seeds and all their recorded steps."""

    n: int
    clusters: int
    top: Mapping[Side, Top]
    """More than the largest 2 % of each side; signed so that they are positive in the tail."""
    log_sums: Mapping[Side, tuple[float, float]]
    """Log of the sums of x and of x^2, x the ratio (left: its inverse)."""
    curve: Mapping[Side, Curve]
    floor: np.ndarray
    """Share of items beyond `EDGES` times the roundoff by rounding alone (`items.unit_rounding`)."""
    sample: np.ndarray
    """Columns log mu, log ratio, log ratio with the noise on; NaN for an arm without."""


class StepTail(NamedTuple):
    """k-hat of one recorded step, pooled over seeds."""

    step: int
    level: str
    side: Side
    fit: TailFit


class StepFactors(NamedTuple):
    """Factors of one recorded step's log ratio, pooled over seeds."""

    step: int
    level: str
    found: Decomposition


class ArmPool(NamedTuple):
    """The results of one pass over an arm's records; every mapping is empty where nothing was recorded."""

    levels: Mapping[str, Pool]
    tails: tuple[StepTail, ...]
    factors: tuple[StepFactors, ...]
    turns: Mapping[tuple[str, int], Pool] = {}
    """By level and turn; empty for responses of one turn."""


def pool_arm(records: Records, arm: str, cells: Collection[str]) -> ArmPool:
    """Read the arm's records once and reduce them; `cells` are the finished ones."""
    most = records.rows(arm, cells=cells)
    pools = {level: _Pooling(most) for level in LEVELS}
    steps = {step for cell in records.of(arm) if cell in cells for step in records.steps(cell)}
    looked_at = spread(sorted(steps), STEPS)
    tails: list[StepTail] = []
    factors: list[StepFactors] = []
    turns: dict[tuple[str, int], _Pooling] = {}
    for batch in records.batches(arm, COLUMNS, cells=cells):
        found = step_items(batch)
        for level, pool in pools.items():
            pool.add(found.levels[level], found.step)
        for key, items in found.turns.items():
            turns.setdefault(key, _Pooling(most)).add(items, found.step)
        if batch.step in looked_at:
            tails += _tails(found)
            factors += _factors(found)
    levels: dict[str, Pool] = {level: pool.result() for level, pool in pools.items() if pool.n}
    split = {key: turns[key].result() for key in sorted(turns)}
    return ArmPool(levels, tuple(tails), tuple(factors), split)


def spread(values: list[int], most: int) -> list[int]:
    """Pick at most `most` of `values`, evenly spread, first and last among them."""
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


@dataclass
class _Pooling:
    """One level's reducers while the arm's steps go by."""

    most: int
    n: int = 0
    clusters: int = 0
    survival: Survival = field(default_factory=Survival)
    floor: np.ndarray = field(default_factory=lambda: np.zeros(BINS + 1))

    def __post_init__(self) -> None:
        # 2 % so that P2 and P98 are order statistics; four tails so that resamples of prompts find enough.
        size = max(math.ceil(0.02 * self.most) + 2, 4 * (tail_size(self.most) + 1))
        self.largest = {side: Largest(size) for side in SIDES}
        self.sums = {side: [-math.inf, -math.inf] for side in SIDES}
        self.sample = Sample(SAMPLE, 3)

    def add(self, items: Items, step: int) -> None:
        if not items.log_ratio.size:
            return
        for side in SIDES:
            values = items.log_ratio if side == "right" else -items.log_ratio
            self.largest[side].add(values, items.cluster + self.clusters)
            for power, total in enumerate(self.sums[side], start=1):
                self.sums[side][power - 1] = float(np.logaddexp(total, logsumexp(power * values)))
        self.survival.add(items.log_ratio, items.cluster, items.clusters, step)
        self.floor += np.bincount(bin_of(items.rounding), minlength=BINS + 1)
        rows = np.column_stack([items.log_mu, items.log_ratio, items.perturbed])
        self.sample.add(rows, step)
        self.n += items.log_ratio.size
        self.clusters += items.clusters

    def result(self) -> Pool:
        return Pool(
            self.n,
            self.clusters,
            {side: self.largest[side].top() for side in SIDES},
            {side: (self.sums[side][0], self.sums[side][1]) for side in SIDES},
            {side: self.survival.curve(side) for side in SIDES},
            survival(self.floor),
            self.sample.rows(),
        )


def _tails(found: StepItems) -> list[StepTail]:
    fits: list[StepTail] = []
    for level in _FOLLOWED:
        items = found.levels[level]
        for side in SIDES:
            fit = fit_khat(items.log_ratio, side=side, cluster=items.cluster, n_boot=STEP_RESAMPLES)
            fits.append(StepTail(found.step, level, side, fit))
    return fits


def _factors(found: StepItems) -> list[StepFactors]:
    logps = dict(found.logps)
    noisy = np.isfinite(logps["logp_perturbed"]).all()
    keep = np.isfinite(logps["logp_old"])
    if not keep.any():  # records from a step whose old log-probs nothing needed
        return []
    return [
        StepFactors(
            found.step,
            level,
            decompose(
                logp_rollout=logps["logp_rollout"][keep],
                logp_old=logps["logp_old"][keep],
                logp_train=logps["logp_train"][keep],
                logp_perturbed=logps["logp_perturbed"][keep] if noisy else None,
                level=level,
                sequence=found.response[keep],
            ),
        )
        for level in _FOLLOWED
    ]
