"""Score cells: one number per quantity, an average over a stated window, never the last point.

Which steps a score at the end of a run averages over is `alpkit.metrics.scored`, as in the terminal. A
cell that did not finish gets no score (its window would be another one than its neighbours').
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from alpkit.metrics import EVALUATIONS, scored

FINISHED: Final = "finished"
"""State of the cells whose numbers may be compared."""
JUDGED: Final = 16
"""Steps below which a run has no peak to speak of: P99 of fewer is the largest of a handful."""


class Score(NamedTuple):
    """A column of `GridFrame.cells`: which metric, over which steps, and how to print it."""

    key: str
    label: str
    how: Callable[[pd.Series, int], float]
    digits: int = 3


def last_steps(values: pd.Series, last: int) -> float:
    """Average over the last steps of the run."""
    values = values.dropna()
    return _mean(values.loc[scored(values.index.tolist(), last)])


def last_evaluations(values: pd.Series, last: int) -> float:
    """Average over the evaluations of the last steps, at least the last `EVALUATIONS`."""
    values = values.dropna()
    return _mean(values.loc[scored(values.index.tolist(), last, at_least=EVALUATIONS)])


def change(values: pd.Series, last: int) -> float:
    """Compute `last_evaluations` minus the evaluation before training."""
    start = values.get(0)
    return np.nan if start is None else last_evaluations(values, last) - float(start)


def all_steps(values: pd.Series, last: int) -> float:
    """Average over every step of training."""
    return _mean(values[values.index > 0])


def largest(values: pd.Series, last: int) -> float:
    """Give the largest value of the run."""
    values = values[values.index > 0]
    return float(values.max()) if values.notna().any() else np.nan


def peak(values: pd.Series, last: int) -> float:
    """Compute P99 over the median of the steps of training; 1: no step stands out. Needs `JUDGED` steps."""
    values = values[values.index > 0].dropna()
    median = float(values.median()) if len(values) >= JUDGED else np.nan
    return float(values.quantile(0.99)) / median if median > 0 else np.nan


def per_thousand(values: pd.Series, last: int) -> float:
    """Count flags per 1,000 steps that were judged."""
    return 1000 * _mean(values[values.index > 0])


SCORES: Final[dict[str, Score]] = {
    "final_reward": Score("reward/mean", "final reward", last_steps),
    "eval_greedy": Score("eval/greedy", "eval greedy", last_evaluations),
    "eval_greedy_change": Score("eval/greedy", "eval greedy, change", change),
    "eval_avg_at_k": Score("eval/avg_at_k", "eval avg@k", last_evaluations),
    "eval_avg_at_k_change": Score("eval/avg_at_k", "eval avg@k, change", change),
    "k1_mean": Score("kl/k1", "K1 mean", all_steps, 4),
    "k1_max": Score("kl/k1", "K1 max", largest, 4),
    "k3_mean": Score("kl/k3", "K3 mean", all_steps, 4),
    "k3_max": Score("kl/k3", "K3 max", largest, 4),
    "k3_peak": Score("kl/k3", "K3 P99 / P50", peak, 2),
    "spike_rate": Score("kl/spike", "spikes per 1,000 steps", per_thousand, 0),
    "width": Score("ratio/raw/token/width", "P98 − P2, token", all_steps),
    "width_product": Score("", "P98 − P2, product", all_steps),
    "ess": Score("ratio/raw/token/ess", "ESS, token", all_steps),
    "ess_product": Score("ratio/raw/product/ess", "ESS, product", all_steps),
    "khat_right": Score("ratio/raw/token/khat_right", "k̂ of the token ratio", all_steps),
    "grad_norm": Score("train/grad_norm", "grad norm", all_steps),
}


def add_scores(cells: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """Add a column to `cells` per entry of `SCORES`; NaN: not finished, or not logged."""
    columns: dict[str, list[float]] = {name: [] for name in SCORES}
    by_cell = {str(cell): part.set_index("step") for cell, part in steps.groupby("cell_id")}
    for cell, state in zip(cells["cell_id"], cells["state"]):
        own = by_cell.get(str(cell)) if state == FINISHED else None
        for name, score in SCORES.items():
            values = None if own is None else _series(own, name, score.key)
            columns[name].append(
                np.nan if own is None or values is None else score.how(values, int(own.index.max()))
            )
    return cells.assign(**{name: np.asarray(values, float) for name, values in columns.items()})


def _series(own: pd.DataFrame, name: str, key: str) -> pd.Series | None:
    if name == "width_product":
        edges = [f"ratio/raw/product/{edge}" for edge in ("p98", "p02")]
        return own[edges[0]] - own[edges[1]] if set(edges) <= set(own.columns) else None
    return own[key] if key in own.columns else None


def _mean(values: pd.Series) -> float:
    values = values.dropna()
    return float(values.mean()) if len(values) else np.nan
