"""Spikes of a grid: when, how high, which tokens made them, and what training did around them.

Reads each cell's spikes; where a run wrote none, the detector's flags in the metrics.

    found = spike_log(frame); found.rows; found.rates
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from alpkit.analysis.frames import FINISHED, GridFrame, Missing
from alpkit.analysis.table import DASH, Table, number, records
from alpkit.runs.folder import GridFolder
from alpkit.runs.spike_log import scan_spikes

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
_TIMES: Final = ("before", "at", "after")


class SpikeLog(NamedTuple):
    """Spikes as rows, how often the K3 of each arm's finished runs spikes, and what was not readable.

    `rates`: arm -> (steps with a spike, judged steps); an arm whose runs are too short to judge is absent.
    """

    rows: pd.DataFrame
    rates: dict[str, tuple[int, int]]
    missing: tuple[Missing, ...]


def spike_log(frame: GridFrame) -> SpikeLog:
    """Every spike of every cell with its surroundings, in the order of arms, seeds and steps."""
    rows: list[dict[str, Any]] = []
    missing: list[Missing] = []
    by_cell = {str(cell): part.set_index("step") for cell, part in frame.steps.groupby("cell_id")}
    for cell in records(frame.cells):
        steps = by_cell.get(cell["cell_id"], pd.DataFrame())
        run = GridFolder(frame.grid.folder).run(cell["cell_id"])
        lines = list(_flagged(steps))
        if run.spikes.is_file():
            spikes, faults = scan_spikes(run.path)
            lines = [_row(spike) for spike in spikes]
            missing += [Missing.of(fault, frame.grid.folder) for fault in faults]
        owner = {"arm": cell["arm"], "seed": cell["seed"], "cell_id": cell["cell_id"]}
        rows += [{**owner, **line, **_around(steps, line["step"])} for line in lines]
    around = [f"{key}_{time}" for key in AROUND for time in _TIMES]
    data = pd.DataFrame(rows, columns=[*IDENTITY, *SHARES, "token", "log_ratio", *around])
    return SpikeLog(data, _rates(frame), tuple(missing))


def spikes_table(log: SpikeLog) -> Table:
    """One row per spike."""
    has = [key for key in AROUND if log.rows[f"{key}_at"].notna().any()]
    shown = [
        {
            "arm": row["arm"],
            "seed": str(row["seed"]),
            "step": str(row["step"]),
            "metric": row["metric"],
            "value": number(row["value"], 4),
            "z": number(row["z"], 1),
            "top token": _percent(row["tokens_1"]),
            "top 10": _percent(row["tokens_10"]),
            "top response": _percent(row["sequences_1"]),
            "its token": _token(row["token"], row["log_ratio"]),
            **{
                AROUND[key]: " → ".join(number(row[f"{key}_{time}"], 3) for time in _TIMES)
                for key in has
            },
        }
        for row in records(log.rows)
    ]
    caption = (
        "Steps on which log K3, its largest update or the gradient norm stood more than 4 robust "
        "standard deviations above the 50 steps before. Top token, top 10, top response: their share "
        "of the step's sum of the metric's terms; its token: the largest one and its log ratio. Then "
        f"mean of the {NEAR} steps before → the step → mean of the {NEAR} after."
    )
    return Table("spikes", "Every spike", caption, log.rows, pd.DataFrame(shown))


def _row(spike: Mapping[str, Any]) -> dict[str, Any]:
    largest = (spike.get("tokens") or [{}])[0]
    shares = {
        f"{of}_{top}": _number(share)
        for of in ("tokens", "sequences")
        for top, share in (spike.get(f"share_{of}") or {}).items()
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


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _flagged(steps: pd.DataFrame) -> Iterator[dict[str, Any]]:
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


def _rates(frame: GridFrame) -> dict[str, tuple[int, int]]:
    if "kl/spike" not in frame.steps:
        return {}
    done = frame.cells.loc[frame.cells["state"] == FINISHED, "cell_id"]
    flags = frame.steps[frame.steps["cell_id"].isin(done)].groupby("arm")["kl/spike"]
    counts = flags.agg(["sum", "count"])
    return {
        str(arm): (int(total), int(n))
        for arm, total, n in zip(counts.index, counts["sum"], counts["count"])
        if n
    }


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if np.isfinite(share) else DASH


def _token(text: object, log_ratio: float) -> str:
    if not isinstance(text, str):
        return DASH
    # A blank or a line break would be nothing to see.
    return f"{text!r} ({log_ratio:+.2f})"
