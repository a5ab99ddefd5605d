"""Where a run's numbers go. Imports no mlflow until a store is opened."""

from alpkit.tracking.log import CellTracker, MlflowSink, Tracker, backfill, read_steps
from alpkit.tracking.store import (
    DEFAULT_URI,
    Store,
    charts_path,
    log_report,
    open_client,
    prepare_store,
    resolve_uri,
)

__all__ = [
    "DEFAULT_URI",
    "CellTracker",
    "MlflowSink",
    "Store",
    "Tracker",
    "backfill",
    "charts_path",
    "log_report",
    "open_client",
    "prepare_store",
    "read_steps",
    "resolve_uri",
]
