"""One readable error for whatever a store raises, without a password in it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alpkit.errors import TrackingError
from alpkit.runs.disk import disk_error, is_full
from alpkit.tracking.address import DEFAULT_URI, has_secret, masked

_SQLITE_FULL: Final = "database or disk is full"


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn whatever a store raises (MLflow, SQLAlchemy, HTTP, files) into one readable error."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        raise store_error(uri, error) from hidden(uri, error)


def store_error(uri: str, error: Exception) -> TrackingError:
    """Put whatever a store raised into one line, without a password."""
    if is_full(error) or (uri.startswith("sqlite") and _SQLITE_FULL in str(error)):
        place = Path(uri.removeprefix("sqlite:///"))
        return disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), place)
    lines = masked(str(error), uri).strip().splitlines()
    return TrackingError(
        "the tracking store refused",
        where=masked(uri),
        why=lines[0][:300] if lines else type(error).__name__,
        fix=f"check --tracking-uri and MLFLOW_TRACKING_URI; without either, {DEFAULT_URI} is used",
    )


def hidden(uri: str, error: Exception) -> Exception | None:
    """Give the cause that a traceback may show; none where its words may hold a password."""
    return None if has_secret(uri) else error
