"""Compute pass@k for every k up to the samples, from how often each item was solved (`evaluations.jsonl`)."""

from collections.abc import Mapping, Sequence
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
    """pass@k by cell, step and k, the counts that it follows from, and the lines that were not readable."""

    rows: pd.DataFrame
    missing: tuple[Missing, ...]
    counts: Mapping[str, Mapping[int, Mapping[str, Counts]]]
    """Cell, step, set: how often each item was solved."""

    def problems(self, steps: Mapping[str, Sequence[int]]) -> list[np.ndarray]:
        """An array [problem, k] a set: pass@k of each problem, its mean over these cells at their `steps`.

        A problem is an item's prompt: seeds that were asked the same are one problem, asked several times.
        """
        most = int(self.rows["k"].max())
        lines = [self.counts[cell][step] for cell, own in steps.items() for step in own]
        found = []
        for name in dict.fromkeys(name for by_set in lines for name in by_set):
            own = [by_set[name] for by_set in lines]
            items = [item for line in own for item in line.items]
            _, problem = np.unique(items, return_inverse=True)
            passes = np.concatenate(
                [pass_at_k(line.solved, line.samples)[:, :most] for line in own]
            )
            sums = np.stack([np.bincount(problem, column) for column in passes.T], axis=1)
            found.append(sums / np.bincount(problem)[:, None])
        return found


def read_pass_curves(folder: Path, cells: pd.DataFrame) -> PassCurves:
    """Rows: cell_id, arm, step, k, value: pass@k of each cell and step, the unweighted mean over its sets.

    Empty unless every one of `cells` kept its counts; only up to the samples that all sets have.
    """
    parts: list[pd.DataFrame] = []
    missing: list[Missing] = []
    counts: dict[str, dict[int, dict[str, Counts]]] = {}
    for cell, arm in zip(cells["cell_id"], cells["arm"]):
        lines, faults = scan_evaluations(GridFolder(folder).run(str(cell)).path)
        missing += [Missing.of(fault, folder) for fault in faults]
        if lines:
            counts[str(cell)] = _by_step(lines)
            parts.append(_of_a_cell(counts[str(cell)]).assign(cell_id=cell, arm=arm))
    if not parts or len(parts) < len(cells):
        return PassCurves(pd.DataFrame(columns=COLUMNS), tuple(missing), {})
    found = pd.concat(parts, ignore_index=True)
    # Arms that were sampled a different number of times share a curve as far as it goes.
    most = int(found.groupby("cell_id")["k"].max().min())
    rows = found.loc[found["k"] <= most, COLUMNS].reset_index(drop=True)
    return PassCurves(rows, tuple(missing), counts)


def _by_step(lines: list[Counts]) -> dict[int, dict[str, Counts]]:
    """Order a cell's counts; steps at which a set was left out are left out too."""
    sets = {line.set for line in lines}
    steps: dict[int, dict[str, Counts]] = {}
    for line in lines:
        # The last line of a set counts: a killed run may have evaluated a step twice.
        steps.setdefault(line.step, {})[line.set] = line
    return {step: steps[step] for step in sorted(steps) if steps[step].keys() == sets}


def _of_a_cell(steps: Mapping[int, Mapping[str, Counts]]) -> pd.DataFrame:
    rows = []
    for step, own in steps.items():
        most = min(line.samples for line in own.values())
        curves = [pass_at_k(line.solved, line.samples).mean(axis=0)[:most] for line in own.values()]
        for k, value in enumerate(np.mean(curves, axis=0), start=1):
            rows.append({"step": step, "k": k, "value": float(value)})
    return pd.DataFrame(rows, columns=["step", "k", "value"])
