"""Writing that outlives a power loss, and the words for a disk that refuses.

    with writing(path):
        path.write_text(text)
        sync_file(path)

Not here: files that appear whole or not at all (`alpkit.runs.swap`).
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from typing import Final

from alpkit.errors import TrackingError

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_ROOM: Final = "No space left on device"
_FIX_ROOM: Final = "make room; the same command goes on from what is on the disk"
_FIX_RIGHTS: Final = "give this user the right to write there, or work in another folder"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a write to `path` raises into a `TrackingError` that says where and why."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        # torch and safetensors tell of a full disk by errors of their own.
        if isinstance(error, OSError) or is_full(error):
            raise disk_error(error, path) from error
        raise


def append_text(path: Path, text: str) -> None:
    """Add all of `text` to a file or nothing: what a full disk has cut short is taken back."""
    with writing(path), path.open("ab", buffering=0) as handle:
        before = handle.tell()
        try:
            _write(handle, text.encode())
        except OSError:
            handle.truncate(before)
            raise


def _write(handle: RawIOBase, data: bytes) -> None:
    while data:
        data = data[handle.write(data) or 0 :]


def disk_error(error: Exception, path: Path) -> TrackingError:
    """Put a failed write into words: disk full with the bytes that are free, or what the system said."""
    if is_full(error):
        return TrackingError(
            "the disk is full",
            where=str(path),
            why=f"{free_bytes(path)} bytes are free there",
            fix=_FIX_ROOM,
        )
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    denied = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return TrackingError(
        "cannot be written",
        where=str(path),
        why=said,
        fix=_FIX_RIGHTS if denied else "look at the folder, then start the same command again",
    )


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, tells of a disk (or a quota) that is used up."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if isinstance(error, TrackingError) and error.what == "the disk is full":
            return True
        # The writers of torch and safetensors keep the system's words, not its number.
        if _NO_ROOM in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_bytes(path: Path) -> int:
    """Give the bytes that are free where `path` lies or would lie; 0 where nothing can be asked."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return 0


def sync_file(path: Path) -> None:
    """Have the content of a file on the disk itself before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk itself; where the file system cannot, nothing is lost."""
    with contextlib.suppress(OSError):
        sync_file(path)
