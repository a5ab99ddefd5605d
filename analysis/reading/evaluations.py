"""Compute pass@k for every k up to the samples, from how often each item was solved (`evaluations.jsonl`)."""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from alpkit.analysis.reading.folders import Missing
from alpkit.diagnostics.passes import pass_at_k
from alpkit.runs.evaluations import Counts, scan_evaluations
from alpkit.runs.folder import GridFolder

COLUMNS: Final = ["cell_id", "arm", "step", "k", "value"]


class PassCurves(NamedTuple):
    """pass@k by cell, step and k, and the lines of the counts that were not readable."""

    rows: pd.DataFrame
    missing: tuple[Missing, ...]


def read_pass_curves(folder: Path, cells: pd.DataFrame) -> PassCurves:
    """Rows: cell_id, arm, step, k, value: pass@k of each cell and step, the unweighted mean over its sets.

    Empty unless every one of `cells` kept its counts; only up to the samples that all sets have.
    """
    parts: list[pd.DataFrame] = []
    missing: list[Missing] = []
    for cell, arm in zip(cells["cell_id"], cells["arm"]):
        lines, faults = scan_evaluations(GridFolder(folder).run(str(cell)).path)
        missing += [Missing.of(fault, folder) for fault in faults]
        if lines:
            parts.append(_of_a_cell(lines).assign(cell_id=cell, arm=arm))
    if not parts or len(parts) < len(cells):
        return PassCurves(pd.DataFrame(columns=COLUMNS), tuple(missing))
    found = pd.concat(parts, ignore_index=True)
    # Arms that were sampled a different number of times share a curve as far as it goes.
    most = int(found.groupby("cell_id")["k"].max().min())
    rows = found.loc[found["k"] <= most, COLUMNS].reset_index(drop=True)
    return PassCurves(rows, tuple(missing))


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
