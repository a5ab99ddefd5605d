"""Keep runs in an MLflow store; mlflow is imported when one is opened. A run's own files: `alpkit.runs`."""

from alpkit.tracking.address import (
    DEFAULT_URI,
    HIDDEN,
    has_secret,
    is_local,
    masked,
    resolve_uri,
    usable_uri,
)
from alpkit.tracking.pages import charts_path, report_path
from alpkit.tracking.report import log_report, log_summary
from alpkit.tracking.sender import Sender
from alpkit.tracking.sink import MlflowSink, backfill
from alpkit.tracking.store import Store, open_client, prepare_store

__all__ = [
    "DEFAULT_URI",
    "HIDDEN",
    "MlflowSink",
    "Sender",
    "Store",
    "backfill",
    "charts_path",
    "has_secret",
    "is_local",
    "log_report",
    "log_summary",
    "masked",
    "open_client",
    "prepare_store",
    "report_path",
    "resolve_uri",
    "usable_uri",
]
