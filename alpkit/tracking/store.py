"""The MLflow store, as the parent process uses it: experiment, runs, tags, statuses, artifacts.

Only the parent touches it (a cold SQLite store raced by processes dies in its migrations), and never
through MLflow's global active run. mlflow is imported at first use.
"""

import fcntl
import getpass
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from alpkit import __version__
from alpkit.errors import TrackingError
from alpkit.runs.disk import disk_error
from alpkit.tracking.address import absolute_uri, masked, resolve_uri
from alpkit.tracking.pages import CHARTS, VIEW, charts_path, report_path, stored_view
from alpkit.tracking.refusals import hidden, store_error, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# The last step whose metrics the store holds; written in the same batch as they are.
STEP_TAG: Final = "alpkit.step"
RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
_PARAM_LENGTH: Final = 500
_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    # MLflow would try a server that is out for minutes (7 times, 120 s each). Ours is asked again later.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
}
_NOTE: Final = "mlflow.note.content"
_BATCH: Final = 1000


def open_client(uri: str) -> "MlflowClient":
    """Import mlflow (seconds), quietly and without telemetry, and give a client of `uri`."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It logs SQLAlchemy's tracebacks, 40 KB each; the errors come to us all the same.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    # urllib3 warns of every retry.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    with store_errors(uri):
        return MlflowClient(tracking_uri=absolute_uri(uri))


def prepare_store(tracking_uri: str | None = None) -> "Store":
    """Open the store, creating a local database with its tables where there is none (8 s once)."""
    uri = absolute_uri(resolve_uri(tracking_uri))
    with _creation(uri):
        client = open_client(uri)
        with store_errors(uri):
            client.search_experiments(max_results=1)
    return Store(uri, client)


@contextmanager
def _creation(uri: str) -> Iterator[None]:
    """One process at a time creates a local database: two at once die in each other's migrations."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not path.parent.is_dir():
        yield
        return
    beside = path.with_name(f".{path.name}.lock")
    try:
        handle = beside.open("a")
    except OSError as error:
        # A store that is there can be read from a folder that cannot be written.
        if path.is_file():
            yield
            return
        raise disk_error(error, path) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Store:
    """An open tracking store, as the parent process uses it."""

    uri: str
    client: "MlflowClient"

    def experiment(self, name: str, *, note: str = "") -> str:
        """Get or create the experiment `name`; give its id."""
        with store_errors(self.uri):
            found = self.client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            if found is None:
                identity = str(self.client.create_experiment(name, self._artifacts(name)))
            else:
                identity = str(found.experiment_id)
                self._refuse_a_moved_store(str(found.artifact_location))
            # Early MLflow 3 opens an experiment of this kind on its runs. From 3.17 on the UI goes by
            # its own switch (GenAI at first), so the note offers the way.
            self.client.set_experiment_tag(
                identity, "mlflow.experimentKind", "custom_model_development"
            )
            self.client.set_experiment_tag(
                identity, f"mlflow.sharedViewState.{VIEW}", stored_view()
            )
            old = found.tags.get(_NOTE, "") if found is not None else ""
            if not old or old.startswith(CHARTS):
                text = f"{CHARTS}({charts_path(identity)})" + (f" · {note}" if note else "")
                self.client.set_experiment_tag(identity, _NOTE, text)
        return identity

    def open_parent(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Give the grid's parent run, reopened if the store has one, with `tags` set anew."""
        with store_errors(self.uri):
            found = self.client.search_runs(
                [experiment],
                "tags.`alpkit.kind` = 'grid'",
                max_results=1,
                order_by=["start_time ASC"],
            )
            if not found:
                run = self.client.create_run(
                    experiment, run_name=name, tags=_common_tags({**tags, "alpkit.kind": "grid"})
                )
                return str(run.info.run_id)
            run_id = str(found[0].info.run_id)
            self.set_tags(run_id, {**tags, "alpkit.version": __version__})
            self.client.update_run(run_id, status="RUNNING")
        return run_id

    def create_child(
        self,
        experiment: str,
        parent: str,
        name: str,
        *,
        tags: Mapping[str, str],
        params: Mapping[str, object],
    ) -> str:
        """Create one cell's run under `parent`, scheduled to start, with its parameters."""
        from mlflow.entities import Param

        with store_errors(self.uri):
            all_tags = _common_tags({**tags, "alpkit.kind": "cell", "mlflow.parentRunId": parent})
            run_id = str(
                self.client.create_run(experiment, run_name=name, tags=all_tags).info.run_id
            )
            self.client.log_batch(
                run_id, params=[Param(k, str(v)[:_PARAM_LENGTH]) for k, v in params.items()]
            )
            self.client.update_run(run_id, status="SCHEDULED")
        return run_id

    def look(self, run_id: str) -> "StoredRun | None":
        """Give what the store holds of a run; None for no such run, or one that was deleted."""
        from mlflow.exceptions import MlflowException

        if not run_id:
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise store_error(self.uri, error) from hidden(self.uri, error)
        except Exception as error:
            raise store_error(self.uri, error) from hidden(self.uri, error)
        return _stored(run) if str(run.info.lifecycle_stage) == "active" else None

    def last_step(self, run_id: str) -> int | None:
        """Give the last step that the store holds of a run: -1 for none, None for no such run."""
        stored = self.look(run_id)
        return None if stored is None else stored.last_step

    def unknown_children(self, experiment: str, parent: str, cell_id: str, known: str) -> list[str]:
        """Runs of a cell without a step that nobody remembers: a kill came before they were written down."""
        query = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`alpkit.cell_id` = '{cell_id}'"
        with store_errors(self.uri):
            runs = [_stored(run) for run in self.client.search_runs([experiment], query)]
        return [run.run_id for run in runs if run.run_id != known and run.last_step < 0]

    def discard(self, run_id: str) -> None:
        """Delete a run (softly: MLflow keeps it until `mlflow gc`)."""
        with store_errors(self.uri):
            self.client.delete_run(run_id)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        with store_errors(self.uri):
            for key, value in tags.items():
                self.client.set_tag(run_id, key, value)

    def set_status(self, run_id: str, status: RunStatus) -> None:
        """Set a run's status: going on, or ended."""
        with store_errors(self.uri):
            if status == "RUNNING":
                self.client.update_run(run_id, status=status)
            else:
                self.client.set_terminated(run_id, status)

    def log_files(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Log a file, or the content of a folder, as artifacts of a run."""
        with store_errors(self.uri):
            if path.is_dir():
                self.client.log_artifacts(run_id, str(path), folder)
            else:
                self.client.log_artifact(run_id, str(path), folder)

    def replace_files(self, run_id: str, path: Path, folder: str) -> None:
        """Log the content of `path` as the artifact folder `folder`, and nothing that it held before."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with store_errors(self.uri):
            info = self.client.get_run(run_id).info
            experiment = self.client.get_experiment(info.experiment_id)
            self._refuse_a_moved_store(str(experiment.artifact_location))
            repository: Any = get_artifact_repository(info.artifact_uri, self.uri)
            repository.delete_artifacts(folder)
            self.client.log_artifacts(run_id, str(path), folder)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        with store_errors(self.uri):
            self.client.log_text(run_id, text, name)

    def log_table(
        self, run_id: str, columns: Sequence[str], rows: Sequence[Sequence[object]], name: str
    ) -> None:
        """Log rows as a table that MLflow's evaluation view shows, replacing one of the same name.

        MLflow's own log_table appends to what is there, so a resumed cell would have its rows twice.
        """
        table = {"columns": list(columns), "data": [list(row) for row in rows]}
        self.log_text(run_id, json.dumps(table), name)
        logged = json.dumps([{"path": name, "type": "table"}])
        self.set_tags(run_id, {"mlflow.loggedArtifacts": logged})

    def log_end_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Log one value of each metric; a second report's values follow the first's."""
        from mlflow.entities import Metric

        at = int(time.time() * 1000)
        with store_errors(self.uri):
            rows = [Metric(key, value, at, 0) for key, value in metrics.items()]
            for start in range(0, len(rows), _BATCH):
                self.client.log_batch(run_id, rows[start : start + _BATCH])

    def link_report(self, run_id: str, folder: str) -> None:
        """Put the report's place into the run's description, before what it says."""
        with store_errors(self.uri):
            run = self.client.get_run(run_id)
            old = re.sub(r"^\[Report\]\([^)]*\)( · )?", "", run.data.tags.get(_NOTE, ""))
            link = f"[Report]({report_path(run.info.experiment_id, run_id, folder)})"
            self.client.set_tag(run_id, _NOTE, f"{link} · {old}" if old else link)

    def _artifacts(self, name: str) -> str | None:
        # Beside the database, absolute: `mlflow ui` started there or anywhere else finds the files.
        # A server decides for itself where its artifacts go.
        if not self.uri.startswith("sqlite:///"):
            return None
        database = Path(self.uri.removeprefix("sqlite:///")).resolve()
        return (database.parent / "mlartifacts" / name).as_uri()

    def _refuse_a_moved_store(self, location: str) -> None:
        """MLflow shows no artifacts and no error when its absolute paths point elsewhere."""
        if not self.uri.startswith("sqlite:///") or not location.startswith("file:"):
            return
        folder = Path(location.removeprefix("file://")).parent
        here = Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts"
        if folder.name == "mlartifacts" and folder != here and not folder.exists():
            raise TrackingError(
                "the tracking store has been moved",
                where=masked(self.uri),
                why=f"its artifacts are recorded under {folder}, which is gone",
                fix="move the folder back, or start a new store: --tracking-uri sqlite:///new.db",
            )


@dataclass(frozen=True)
class StoredRun:
    """One run as the store holds it."""

    run_id: str
    status: str
    last_step: int
    """-1 for none."""
    tags: Mapping[str, str]


def _stored(run: "Run") -> StoredRun:
    # MLflow commits a batch's metrics before its tag: a kill in between leaves steps that no tag names.
    steps = [int(metric.step) for metric in run.data.to_proto().metrics]
    tags: Mapping[str, str] = run.data.tags
    last = max([*steps, int(tags.get(STEP_TAG, -1))])
    return StoredRun(str(run.info.run_id), str(run.info.status), last, tags)


def _common_tags(tags: Mapping[str, str]) -> dict[str, str]:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        user = str(os.getuid())
    return {
        "alpkit.version": __version__,
        "mlflow.user": user,
        "mlflow.source.name": "alpkit",
        "mlflow.source.type": "LOCAL",
        **tags,
    }
