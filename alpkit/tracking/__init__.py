"""Runs in an MLflow store. Imports no mlflow until one is opened. A run's own files: `alpkit.runs`."""

from alpkit.tracking.sink import MlflowSink, backfill
from alpkit.tracking.store import (
    DEFAULT_URI,
    Store,
    charts_path,
    log_report,
    open_client,
    prepare_store,
    report_path,
    resolve_uri,
)

__all__ = [
    "DEFAULT_URI",
    "MlflowSink",
    "Store",
    "backfill",
    "charts_path",
    "log_report",
    "open_client",
    "prepare_store",
    "report_path",
    "resolve_uri",
]
