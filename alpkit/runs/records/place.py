"""Find a run's records: their files, the steps that have some, and those that a resumed run removes."""

import re
import shutil
from pathlib import Path
from typing import Final

from alpkit.runs.folder import RunFolder, step_folders
from alpkit.runs.records.schema import Kind
from alpkit.runs.swap import remove_unfinished

_NAME: Final = re.compile(r"(tokens|sequences|likeliest)-(\d{6,})\.parquet")


def record_file(folder: Path, kind: Kind, step: int) -> Path:
    """Name a step's file in `folder`, a run's folder of records."""
    return folder / f"{kind}-{step:06d}.parquet"


def recorded_steps(run: Path) -> list[int]:
    """List the steps of `run` that have records, ascending."""
    return sorted(step for kind, step, _ in _files(run) if kind == "tokens")


def rewind(run: Path, step: int | None) -> None:
    """Remove records and replay checkpoints after `step` (None: all), and what a kill left half-written.

    Records of spikes go too: steps that are taken again may not spike again.
    """
    last = -1 if step is None else step
    folder = RunFolder(run)
    for _, recorded, path in _files(run):
        if recorded > last:
            path.unlink()
    for recorded, path in step_folders(folder.replay).items():
        if recorded > last:
            shutil.rmtree(path)
    remove_unfinished(folder.records)
    remove_unfinished(folder.replay)


def _files(run: Path) -> list[tuple[str, int, Path]]:
    named = ((_NAME.fullmatch(path.name), path) for path in RunFolder(run).records.glob("*"))
    return [(match[1], int(match[2]), path) for match, path in named if match]
