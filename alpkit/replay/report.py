"""Pool a replay over its steps, and write its files: `reports/<grid>-<id>-<cell>-replay/`.

The folder is built beside its final place and swapped in whole: a second replay replaces the first.
"""

import json
import os
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

import numpy as np
import pandas as pd

from alpkit.replay.book import FRAMES, Replay, Row
from alpkit.runs.csv import write_csv
from alpkit.runs.swap import swapped_folder

REPORTS: Final = "reports"


Matrix = dict[str, dict[str, object]]
"""method -> other method -> number, None where it is undefined."""


class Pooled(TypedDict):
    """JSON-ready numbers over all replayed steps; None where a number is undefined.

    `methods` and `gradients`: means over steps; `overlap`: Jaccard of the tokens of all steps together;
    `cosines`: means over steps.
    """

    methods: list[Row]
    overlap: dict[str, Matrix]
    gradients: list[Row]
    cosines: Matrix


class Written(NamedTuple):
    """The folder of a replay's files, and whether they replaced an earlier replay's."""

    folder: Path
    replaced: bool


def pooled(replayed: Replay) -> Pooled:
    """Pool a replay over its steps, for tables and JSON."""
    return {
        "methods": _means(replayed.methods),
        "overlap": {
            str(of): _matrix(_jaccard(rows), "jaccard")
            for of, rows in replayed.overlap.groupby("of", sort=False)
        },
        "gradients": _means(replayed.gradients),
        "cosines": _matrix(
            replayed.cosines.groupby(["method", "other"], sort=False)["cosine"]
            .mean()
            .reset_index(),
            "cosine",
        ),
    }


def as_json(replayed: Replay) -> dict[str, object]:
    """Give everything but tokens, JSON-ready: the pooled numbers and every frame's rows."""
    cell = replayed.cell
    return {
        "cell_id": cell.cell_id,
        "arm": cell.arm,
        "seed": cell.seed,
        "folder": str(cell.folder),
        "steps": sorted({int(step) for step in replayed.methods["step"]}),
        "equals_logged": replayed.equals_logged,
        "notes": list(replayed.notes),
        "pooled": pooled(replayed),
        **{name: _rows(getattr(replayed, name)) for name in FRAMES},
    }


def write(replayed: Replay, root: Path | str = Path(".")) -> Written:
    """Write every frame as CSV and `replay.json` under `root`, replacing an earlier replay whole."""
    target = Path(root) / REPORTS / f"{replayed.cell.report_id.replace(os.sep, '_')}-replay"
    replaced = target.exists()
    with swapped_folder(target) as work:
        for name in FRAMES:
            write_csv(getattr(replayed, name), work / f"{name}.csv")
        text = json.dumps(as_json(replayed), indent=1, ensure_ascii=False, allow_nan=False)
        (work / "replay.json").write_text(text + "\n", encoding="utf-8")
    return Written(target, replaced)


def _jaccard(rows: pd.DataFrame) -> pd.DataFrame:
    counts = rows.groupby(["method", "other"], sort=False)[["both", "either"]].sum()
    # 0 / 0 is NaN: neither method touched a token.
    return (counts["both"] / counts["either"]).rename("jaccard").reset_index()


def _means(frame: pd.DataFrame) -> list[Row]:
    if frame.empty:
        return []
    by_method = frame.groupby("method", sort=False)
    means = by_method.mean(numeric_only=True).drop(columns=["step", "own"], errors="ignore")
    means.insert(0, "steps", by_method["step"].nunique())
    means.insert(1, "own", by_method["own"].first())
    return _rows(means.reset_index())


def _matrix(pairs: pd.DataFrame, value: str) -> Matrix:
    matrix: Matrix = {}
    for row in _rows(pairs):
        matrix.setdefault(str(row["method"]), {})[str(row["other"])] = row[value]
    return matrix


def _rows(frame: pd.DataFrame) -> list[Row]:
    plain = frame.astype(object).where(frame.notna(), None)
    return [
        {str(key): _plain(value) for key, value in row.items()} for row in plain.to_dict("records")
    ]


def _plain(value: object) -> object:
    """Turn numpy's scalars into Python's, which json knows."""
    return value.item() if isinstance(value, np.generic) else value
