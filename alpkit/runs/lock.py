"""`.lock`: one process at a time runs a grid, and anybody can ask whether one does."""

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from alpkit.errors import GridError
from alpkit.runs.disk import writing
from alpkit.runs.folder import GridFolder

_HELD: Final = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What `flock` says of a lock that another process holds; anything else is about the file system."""
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the grid's folder; the kernel lets go when this process ends, however it ends.

    A file system without locks (some network mounts) is told and used all the same.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = GridFolder(folder).lock
    with writing(path):
        handle = path.open("a+")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _HELD:
                _log.warning(
                    "%s is on a file system without locks (%s): start this grid from one process only, "
                    "as nobody would notice a second one",
                    folder,
                    error.strerror,
                )
                yield
                return
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise GridError(
                f"grid {folder.name} is running already",
                where=str(folder),
                why=f"process {holder} holds it, and two would write the same cells",
                fix="wait for it, or stop it",
            ) from error
        # Who holds it is a courtesy: on a full disk the lock holds all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(handle.fileno(), 0)
            os.write(handle.fileno(), str(os.getpid()).encode())
        yield


def is_live(folder: Path) -> bool:
    """Whether some process is running this grid right now; False where the file system cannot tell."""
    try:
        with GridFolder(folder).lock.open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in _HELD
    return False


def can_lock(path: Path) -> bool:
    """Whether the file system of `path` has locks; makes the file."""
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _HELD
    return True
