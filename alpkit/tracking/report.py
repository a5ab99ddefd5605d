"""A report on the run that it is about: its files, its first table as metrics, and a link."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from alpkit.tracking.store import prepare_store


def log_report(
    run_id: str,
    path: Path,
    *,
    tracking_uri: str | None = None,
    folder: str = "report",
    overview: Sequence[Mapping[str, object]] = (),
) -> None:
    """Log a folder's content as artifacts of `run_id`, in place of what an earlier report left there.

    With `overview`, rows of the report's first table (`arm`, then numbers): also the table and its figure at
    the top of the run's artifacts, every number as the metric `<column>/<arm>`, and a link in its description.
    """
    store = prepare_store(tracking_uri)
    store.replace_files(run_id, path, folder)
    if not overview:
        return
    log_summary(run_id, overview, tracking_uri=tracking_uri)
    columns = list(overview[0])
    store.log_table(
        run_id, columns, [[row[column] for column in columns] for row in overview], "overview.json"
    )
    if (figure := path / "summary.png").is_file():
        store.log_files(run_id, figure)
    store.link_report(run_id, folder)


def log_summary(
    run_id: str, overview: Sequence[Mapping[str, object]], *, tracking_uri: str | None = None
) -> None:
    """Log every arm's end values on the grid's run: every number of `overview` as `<column>/<arm>`."""
    prepare_store(tracking_uri).log_end_metrics(run_id, _end_metrics(overview))


def _end_metrics(rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """`accuracy_mean` of arm `grpo lr=1` as `accuracy/grpo lr_1`: MLflow's charts group by what is before `/`."""
    found = {}
    for row in rows:
        arm = re.sub(r"[^\w. :-]", "_", str(row["arm"]))
        for column, value in row.items():
            if column.endswith("_mean") and isinstance(value, float) and math.isfinite(value):
                found[f"{column.removesuffix('_mean')}/{arm}"] = value
    return found
