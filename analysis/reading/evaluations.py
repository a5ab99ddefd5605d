"""pass@k for every k up to the samples, from how often each item was solved (`evaluations.jsonl`)."""

from pathlib import Path

import numpy as np
import pandas as pd

from alpkit.diagnostics.passes import pass_at_k
from alpkit.runs.evaluations import Counts, read

COLUMNS = ("cell_id", "arm", "step", "k", "value")


def pass_curves(folder: Path, cells: pd.DataFrame) -> pd.DataFrame:
    """cell_id, arm, step, k, value: pass@k of each cell and step, the unweighted mean over its sets.

    Empty unless every one of `cells` kept its counts; only up to the samples that all sets have.
    """
    parts: list[pd.DataFrame] = []
    for cell, arm in zip(cells["cell_id"], cells["arm"]):
        lines = read(folder / str(cell))
        if not lines:
            return pd.DataFrame(columns=list(COLUMNS))
        parts.append(_of_a_cell(lines).assign(cell_id=cell, arm=arm))
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    found = pd.concat(parts, ignore_index=True)
    # Arms that were sampled a different number of times share a curve as far as it goes.
    most = int(found.groupby("cell_id")["k"].max().min())
    return found.loc[found["k"] <= most, list(COLUMNS)].reset_index(drop=True)


def _of_a_cell(lines: list[Counts]) -> pd.DataFrame:
    sets = {line.set for line in lines}
    rows = []
    for step in sorted({line.step for line in lines}):
        # The last line of a set counts: a killed run may have evaluated a step twice.
        own = {line.set: line for line in lines if line.step == step}
        if own.keys() != sets:
            continue
        most = min(line.samples for line in own.values())
        curves = [pass_at_k(line.solved, line.samples).mean(axis=0)[:most] for line in own.values()]
        for k, value in enumerate(np.mean(curves, axis=0), start=1):
            rows.append({"step": step, "k": k, "value": float(value)})
    return pd.DataFrame(rows, columns=["step", "k", "value"])
