"""A replay pooled over its steps, and its files: `reports/<grid>-<id>-<cell>-replay/`.

The folder is built beside its final place and swapped in whole: a second replay replaces the first.
"""

import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd

from alpkit.replay.book import FRAMES, Replay
from alpkit.runs.swap import swapped_folder

REPORTS: Final = "reports"


class Written(NamedTuple):
    """Where a replay's files lie, and whether an earlier replay made way for them."""

    folder: Path
    replaced: bool


def pooled(found: Replay) -> dict[str, Any]:
    """JSON-ready numbers over all replayed steps; None where a number is undefined.

    `methods` and `gradients`: means over steps; `overlap`: Jaccard of the tokens of all steps together;
    `cosines`: means over steps.
    """
    return {
        "methods": _means(found.methods),
        "overlap": {
            str(of): _matrix(_jaccard(rows), "jaccard")
            for of, rows in found.overlap.groupby("of", sort=False)
        },
        "gradients": _means(found.gradients),
        "cosines": _matrix(
            found.cosines.groupby(["method", "other"], sort=False)["cosine"].mean().reset_index(),
            "cosine",
        ),
    }


def as_json(found: Replay) -> dict[str, Any]:
    """Everything but tokens, JSON-ready: the pooled numbers and every frame's rows."""
    cell = found.cell
    return {
        "cell_id": cell.cell_id,
        "arm": cell.arm,
        "seed": cell.seed,
        "folder": str(cell.folder),
        "steps": sorted({int(step) for step in found.methods["step"]}),
        "equals_logged": found.equals_logged,
        "notes": list(found.notes),
        "pooled": pooled(found),
        **{name: _rows(getattr(found, name)) for name in FRAMES},
    }


def write(found: Replay, root: Path | str = Path(".")) -> Written:
    """Write every frame as CSV and `replay.json` under `root`, replacing an earlier replay whole."""
    target = Path(root) / REPORTS / f"{found.cell.report_id.replace(os.sep, '_')}-replay"
    replaced = target.exists()
    with swapped_folder(target) as work:
        for name in FRAMES:
            getattr(found, name).to_csv(work / f"{name}.csv", index=False)
        text = json.dumps(as_json(found), indent=1, ensure_ascii=False, allow_nan=False)
        (work / "replay.json").write_text(text + "\n", encoding="utf-8")
    return Written(target, replaced)


def _jaccard(rows: pd.DataFrame) -> pd.DataFrame:
    counts = rows.groupby(["method", "other"], sort=False)[["both", "either"]].sum()
    # 0 / 0 is NaN: neither method touched a token.
    return (counts["both"] / counts["either"]).rename("jaccard").reset_index()


def _means(frame: pd.DataFrame) -> list[dict[str, Any]]:
    if frame.empty:
        return []
    own = frame.groupby("method", sort=False)
    means = own.mean(numeric_only=True).drop(columns=["step", "own"], errors="ignore")
    means.insert(0, "steps", own["step"].nunique())
    means.insert(1, "own", own["own"].first())
    return _rows(means.reset_index())


def _matrix(pairs: pd.DataFrame, value: str) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for row in _rows(pairs):
        found.setdefault(str(row["method"]), {})[str(row["other"])] = row[value]
    return found


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    plain = frame.astype(object).where(frame.notna(), None)
    return [
        {str(key): _plain(value) for key, value in row.items()} for row in plain.to_dict("records")
    ]


def _plain(value: Any) -> Any:
    """Numpy's scalars as Python's, which json knows."""
    return value.item() if hasattr(value, "item") else value
