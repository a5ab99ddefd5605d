"""Files and folders that appear whole or not at all: written beside their place, then renamed into it.

A file is on the disk itself before its name is; so are the files of a folder that is asked to `last`. A
disk that refuses is a `TrackingError` with path and reason.

write_text(path, text)
with swapped_folder(target) as work:
(work / "model.safetensors").write_bytes(weights)
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from alpkit.runs.disk import sync_file, sync_folder, writing


@contextmanager
def swapped_file(target: Path) -> Iterator[Path]:
    """Give a path to write to; what is there takes `target`'s place unless the block raises.

    A reader sees the old file or the new one, never half.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            # A name that outlives a power loss without its content would be an empty state.
            sync_file(temporary)
            os.replace(temporary, target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file whole."""
    with swapped_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Replace a JSON file whole."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def swapped_folder(target: Path, *, last: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill, which takes `target`'s place unless the block raises.

    `last`: whether its files must outlive a power loss. Two processes may do so at once: the last one wins.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(".tmp", f".{target.name}.", target.parent))
        with _in_place_of(target, work, last=last):
            yield work


@contextmanager
def _in_place_of(target: Path, work: Path, *, last: bool) -> Iterator[None]:
    old = work.with_suffix(".old.tmp")
    try:
        yield
        for path in sorted(work.rglob("*")) if last else ():
            sync_file(path)
        # mkdtemp is private to its user; what is kept is not.
        work.chmod(0o755)
        # A folder cannot be renamed onto a full one: the old one steps aside first.
        if target.exists():
            target.rename(old)
        work.rename(target)
        if last:
            sync_folder(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process was writing into `folder` when it died; nobody else may be writing."""
    # Earlier versions called a folder `.partial`.
    for path in (*folder.glob(".*.tmp"), *folder.glob(".*.partial")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
