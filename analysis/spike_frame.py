"""Read the spikes of a grid as a frame: when, how high, which tokens made them, and how training went around them.

Reads each cell's `spikes.jsonl`; where a run wrote none, the detector's flags in the metrics. Not here:
the table (`alpkit.analysis.tables.spikes`).

    log = frame.spike_log; log.rows; log.rates
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from alpkit.analysis.reading.folders import Missing
from alpkit.analysis.seeds.scores import FINISHED
from alpkit.runs.folder import GridFolder
from alpkit.runs.spike_log import Spike, scan_spikes

NEAR: Final = 5
"""Steps before and after a spike that are averaged."""
AROUND: Final = {
    "train/grad_norm": "grad norm",
    "train/loss": "loss",
    "reward/mean": "reward",
    "sigma/mean": "σ",
}
FLAGS: Final = {"kl": "kl/k3", "train": "train/grad_norm"}
IDENTITY: Final = ["arm", "seed", "cell_id", "step", "metric", "value", "z"]
SHARES: Final = [f"{of}_{top}" for of in ("tokens", "sequences") for top in (1, 10, 100)]
TIMES: Final = ("before", "at", "after")


class SpikeLog(NamedTuple):
    """Spikes as rows, how often the K3 of each arm's finished runs spikes, and what was not readable.

    `rates`: arm -> (steps with a spike, judged steps); an arm whose runs are too short to judge is absent.
    """

    rows: pd.DataFrame
    rates: dict[str, tuple[int, int]]
    missing: tuple[Missing, ...]


def read_spikes(folder: Path, cells: pd.DataFrame, steps: pd.DataFrame) -> SpikeLog:
    """Read every spike of every cell of a grid's folder, in the order of arms, seeds and steps."""
    rows: list[dict[str, object]] = []
    missing: list[Missing] = []
    by_cell = {str(cell): part.set_index("step") for cell, part in steps.groupby("cell_id")}
    for arm, seed, cell in zip(cells["arm"], cells["seed"], cells["cell_id"]):
        own = by_cell.get(str(cell), pd.DataFrame())
        run = GridFolder(folder).run(str(cell))
        lines = list(_flagged(own))
        if run.spikes.is_file():
            spikes, faults = scan_spikes(run.path)
            lines = [_row(spike) for spike in spikes]
            missing += [Missing.of(fault, folder) for fault in faults]
        owner = {"arm": arm, "seed": seed, "cell_id": cell}
        rows += [{**owner, **line, **_around(own, int(str(line["step"])))} for line in lines]
    around = [f"{key}_{time}" for key in AROUND for time in TIMES]
    data = pd.DataFrame(rows, columns=[*IDENTITY, *SHARES, "token", "log_ratio", *around])
    return SpikeLog(data, _rates(cells, steps), tuple(missing))


def _row(spike: Spike) -> dict[str, object]:
    largest: Mapping[str, object] = next(iter(spike.get("tokens") or []), {})
    held = {
        "tokens": spike.get("share_tokens") or {},
        "sequences": spike.get("share_sequences") or {},
    }
    shares = {
        f"{of}_{top}": _number(share)
        for of, shares_of in held.items()
        for top, share in shares_of.items()
        if f"{of}_{top}" in SHARES
    }
    return {
        "step": spike["step"],
        "metric": spike["metric"],
        "value": _number(spike.get("value")),
        "z": _number(spike.get("z")),
        "token": largest.get("text"),
        "log_ratio": _number(largest.get("log_ratio")),
        **shares,
    }


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float | str) else np.nan


def _flagged(steps: pd.DataFrame) -> Iterator[dict[str, object]]:
    for area, metric in FLAGS.items():
        for step, row in (
            steps[steps[f"{area}/spike"] == 1].iterrows() if f"{area}/spike" in steps else ()
        ):
            z, value = row.get(f"{area}/spike_z", np.nan), row.get(metric, np.nan)
            yield {"step": int(str(step)), "metric": metric, "value": value, "z": z}


def _around(steps: pd.DataFrame, step: int) -> dict[str, float]:
    spans = {
        "before": (step - NEAR, step - 1),
        "at": (step, step),
        "after": (step + 1, step + NEAR),
    }
    found = {}
    for key in AROUND:
        values = steps[key] if key in steps else pd.Series(dtype=float)
        for time, (first, last) in spans.items():
            found[f"{key}_{time}"] = float(values.loc[first:last].mean())
    return found


def _rates(cells: pd.DataFrame, steps: pd.DataFrame) -> dict[str, tuple[int, int]]:
    if "kl/spike" not in steps:
        return {}
    done = cells.loc[cells["state"] == FINISHED, "cell_id"]
    flags = steps[steps["cell_id"].isin(done)].groupby("arm")["kl/spike"]
    counts = flags.agg(["sum", "count"])
    return {
        str(arm): (int(total), int(n))
        for arm, total, n in zip(counts.index, counts["sum"], counts["count"])
        if n
    }
