"""The address of a tracking store: which one is meant, and how it may be written down.

A password in it is for the connection alone. Files, messages and reports hold `masked(uri)`.
"""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from alpkit.errors import TrackingError

DEFAULT_URI: Final = "sqlite:///mlflow.db"
HIDDEN: Final = "***"
# Up to the last @ before a slash: a password may hold an unescaped @.
_USER: Final = re.compile(
    r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<user>[^:/?#\s@]*):(?P<secret>[^/\s]*)@"
)
_QUERY: Final = re.compile(
    r"(?P<key>[?&](?:\w*password|\w*passwd|pwd|token|\w*secret)=)(?P<secret>[^&#\s]+)", re.I
)


def resolve_uri(tracking_uri: str | None = None) -> str:
    """Give the store's address: the argument, else MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db`."""
    return tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def absolute_uri(uri: str) -> str:
    """Anchor a relative SQLite path: MLflow caches stores by text, whatever the folder."""
    prefix, path = "sqlite:///", uri.removeprefix("sqlite:///")
    return uri if path == uri else f"{prefix}{Path(path).resolve()}"


def is_local(uri: str) -> bool:
    """Whether the store is a file on this machine, and not a server that may be out."""
    return uri.startswith("sqlite:")


def masked(text: str, uri: str = "") -> str:
    """Hide the password of every address in `text`, and wherever else it holds that of `uri`."""
    for secret in _secrets(uri):
        text = text.replace(secret, HIDDEN)
    text = _USER.sub(rf"\g<scheme>\g<user>:{HIDDEN}@", text)
    return _QUERY.sub(rf"\g<key>{HIDDEN}", text)


def has_secret(uri: str) -> bool:
    """Whether the address holds a password."""
    return bool(_secrets(uri))


def usable_uri(tracking_uri: str | None, stored: str) -> str:
    """Give the address to connect to for a grid whose files name `stored`, which may be masked.

    The argument wins; else MLFLOW_TRACKING_URI where it is what was masked. Raises `TrackingError` where
    the password is in neither.
    """
    if tracking_uri or HIDDEN not in stored:
        return tracking_uri or stored or resolve_uri()
    if masked(resolve_uri()) == stored:
        return resolve_uri()
    raise TrackingError(
        "the password of the tracking store is not known here",
        where=stored,
        why="alpkit writes no password down",
        fix="set MLFLOW_TRACKING_URI to the whole address, or pass --tracking-uri",
    )


def _secrets(uri: str) -> list[str]:
    found = {match["secret"] for pattern in (_USER, _QUERY) for match in pattern.finditer(uri)}
    texts = {text for secret in found for text in (secret, unquote(secret))}
    return sorted(texts - {"", HIDDEN}, key=len, reverse=True)
