"""Run cells as tasks of a Ray cluster: the one at RAY_ADDRESS, else one on this machine.

A cell whose node is lost runs again: from its newest checkpoint where nodes share the grid's folder, from its
start where they do not, and the log says which. Only this process talks to the tracking store. Imports ray at
first use; not here: SLURM, which starts the cluster (docs/scaling.md).
"""

import io
import logging
import os
import shutil
import signal
import tarfile
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from alpkit.errors import TrackingError
from alpkit.launch.base import (
    CellTask,
    Ended,
    OnEvent,
    Started,
    Stepped,
    cores,
    on_signals,
    stopped_where,
)
from alpkit.runs.folder import CONFIG_FILE, RunFolder, step_folders
from alpkit.tracking import is_local, masked

_ATTEMPTS: Final = 3
"""Nodes that a cell may lose before it is given up."""
_POLL: Final = 0.2
_NEWS_SECONDS: Final = 60.0
"""How long a cluster may take to notice that a node is gone."""
_GRACE: Final = 25.0
_OWN: Final = (RunFolder(Path()).state.name, CONFIG_FILE)
"""Files of a cell's folder that the launching process writes."""
_log = logging.getLogger(__name__)


class Here(NamedTuple):
    """A cell's first word: the node that runs it, and whether that node sees the grid's folder."""

    cell_id: str
    node: str
    shared: bool


class Step(NamedTuple):
    cell_id: str
    step: int
    metrics: dict[str, float]


class Done(NamedTuple):
    """A task's result: the failure's text, and the cell's files where the folder is not shared."""

    error: str | None
    files: bytes | None


@dataclass
class _Running:
    task: CellTask
    attempts: int = 1
    place: Here | None = None
    began: bool = False


class Ray:
    """The `Launcher` on a cluster; `jobs`: cells at the same time (None: as many as the cluster has room for)."""

    def __init__(
        self,
        jobs: int | None = None,
        *,
        cpus: int = 1,
        gpus: float | None = None,
        shared: bool | None = None,
    ) -> None:
        """Request `cpus` and `gpus` (None: one where the cluster has some) for each cell.

        `shared`: whether nodes see the grid's folder; None: find out on each node.
        """
        self._ray = _import()
        self._jobs, self._shared = jobs, shared
        address = os.environ.get("RAY_ADDRESS")
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not self._ray.is_initialized():
            local = {} if address else {"num_cpus": len(cores()), "include_dashboard": False}
            self._ray.init(address=address, **local, **quiet)
        held = float(self._ray.cluster_resources().get("GPU", 0.0))
        self._request = {
            "num_cpus": cpus,
            "num_gpus": (1.0 if held else 0.0) if gpus is None else gpus,
        }
        self.places: dict[str, str] = {}
        """Cell -> node on which it was last seen."""

    def refuse_a_file_store(self, uri: str) -> None:
        """Refuse a store in a file where the cluster has several hosts."""
        hosts = {node["NodeManagerHostname"] for node in self._ray.nodes() if node["Alive"]}
        if len(hosts) > 1 and is_local(uri):
            raise TrackingError(
                f"SQLite cannot serve {len(hosts)} hosts",
                where=masked(uri),
                fix="start `mlflow server` on one of them and pass --tracking-uri http://HOST:5000",
            )

    def run(self, tasks: Sequence[CellTask], on_event: OnEvent, *, fail_fast: bool) -> None:
        """Run `tasks`; see `Launcher`."""
        pending = deque(_Running(task) for task in tasks)
        running: dict[Any, _Running] = {}
        inbox = self._inbox()
        with _token(tasks, self._shared) as token:
            submit = self._submit(inbox, token)
            try:
                while pending or running:
                    while pending and (self._jobs is None or len(running) < self._jobs):
                        cell = pending.popleft()
                        running[submit(cell.task)] = cell
                    ready, _ = self._ray.wait(list(running), num_returns=1, timeout=_POLL)
                    self._hear(inbox, running, on_event)
                    for reference in ready:
                        cell = running.pop(reference)
                        lost, error = self._outcome(reference, cell)
                        if lost and cell.attempts < _ATTEMPTS:
                            _say_where_it_goes_on(cell)
                            pending.appendleft(
                                replace(cell, attempts=cell.attempts + 1, place=None)
                            )
                            continue
                        _begin(cell, on_event)
                        on_event(Ended(cell.task.cell_id, "failed" if error else "finished", error))
                        if error and fail_fast:
                            return
            finally:
                with on_signals(signal.SIG_IGN):
                    self._stop(inbox, running, on_event)

    def _submit(self, inbox: Any, token: str) -> Any:
        # A process per cell: vLLM does not give its memory back.
        remote = self._ray.remote(max_calls=1, max_retries=0, **self._request)(_run)
        here = str(Path.cwd())
        return lambda task: remote.remote(task, inbox, token, here, int(self._request["num_cpus"]))

    def _inbox(self) -> Any:
        """Place the actor that hears the cells beside this process, so that no lost node takes it along."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = self._ray.get_runtime_context().get_node_id()
        where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        return self._ray.remote(num_cpus=0, scheduling_strategy=where)(_Inbox).remote()

    def _hear(self, inbox: Any, running: Mapping[Any, _Running], on_event: OnEvent) -> None:
        cells = {cell.task.cell_id: cell for cell in running.values()}
        for message in self._ray.get(inbox.take.remote()):
            cell = cells[message.cell_id]
            match message:
                case Here():
                    cell.place = message
                    self.places[message.cell_id] = message.node
                    _begin(cell, on_event)
                case Step():
                    on_event(Stepped(message.cell_id, message.step, message.metrics))

    def _outcome(self, reference: Any, cell: _Running) -> tuple[bool, str | None]:
        """Say whether the cell's node was lost, and what it failed of otherwise."""
        exceptions = self._ray.exceptions
        try:
            done: Done = self._ray.get(reference)
        except exceptions.RayTaskError as error:
            return False, f"{error.cause}\n{error}"
        except exceptions.RayError as error:
            if self._is_lost(cell):
                return True, f"its node was lost {cell.attempts} times"
            text = (str(error).splitlines() or [""])[0]
            return False, f"the worker process ended without a Python exception: {text}"
        if done.files is not None:
            _unpack(done.files, cell.task.folder)
        return False, done.error

    def _is_lost(self, cell: _Running) -> bool:
        """Whether the cell's node is gone; a cell that had not begun was on none."""
        if cell.place is None:
            return True
        until = time.monotonic() + _NEWS_SECONDS
        while time.monotonic() < until:
            alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
            if cell.place.node not in alive:
                return True
            time.sleep(_POLL)
        return False

    def _stop(self, inbox: Any, running: Mapping[Any, _Running], on_event: OnEvent) -> None:
        """Ask the running cells to save a checkpoint, then end what is left."""
        for reference, cell in running.items():
            if cell.place is None:
                self._ray.cancel(reference, force=True)
        begun = [reference for reference, cell in running.items() if cell.place is not None]
        with suppress(self._ray.exceptions.RayError):
            self._ray.get(inbox.stop.remote())
            if begun:
                self._ray.wait(begun, num_returns=len(begun), timeout=_GRACE)
        for reference in begun:
            self._ray.cancel(reference, force=True)
        for cell in running.values():
            if cell.began:
                on_event(Ended(cell.task.cell_id, "killed", stopped_where(cell.task)))
        self._ray.kill(inbox)


class _Inbox:
    """Hears every cell; tells each whether it is to stop."""

    def __init__(self) -> None:
        self._messages: list[Here | Step] = []
        self._stopping = False

    def tell(self, message: Here | Step) -> bool:
        self._messages.append(message)
        return self._stopping

    def take(self) -> list[Here | Step]:
        messages, self._messages = self._messages, []
        return messages

    def stop(self) -> None:
        self._stopping = True


def _run(task: CellTask, inbox: Any, token: str, home: str, threads: int) -> Done:
    """Run one cell on a node of the cluster."""
    import ray

    from alpkit.launch.worker import attempt
    from alpkit.runs.notice import ask_to_stop

    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if Path(home).is_dir():
        os.chdir(home)  # models and data files are named from there
    shared = bool(token) and (task.folder.parent / token).is_file()
    place = Here(task.cell_id, ray.get_runtime_context().get_node_id(), shared)
    ray.get(inbox.tell.remote(place))

    def on_step(step: int, metrics: Mapping[str, float]) -> None:
        if ray.get(inbox.tell.remote(Step(task.cell_id, step, dict(metrics)))):
            ask_to_stop()

    if shared:
        return Done(attempt(task, on_step, threads), None)
    with tempfile.TemporaryDirectory(prefix="alpkit-") as folder:
        own = replace(task, folder=Path(folder) / task.cell_id)
        own.folder.mkdir()
        return Done(attempt(own, on_step, threads), _pack(own.folder))


def _pack(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in _OWN:
                archive.add(path, path.name)
    return packed.getvalue()


def _unpack(files: bytes, folder: Path) -> None:
    """Put a cell's files in the place of what an earlier attempt has left there."""
    for path in folder.iterdir():
        if path.name not in _OWN:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(folder, filter="data")


class _token:
    """A file beside the cells by which a node sees that it shares the grid's folder; its name is the context."""

    def __init__(self, tasks: Sequence[CellTask], shared: bool | None) -> None:
        self._path = tasks[0].folder.parent / f".shared-{uuid.uuid4().hex}" if tasks else None
        self._shared = shared

    def __enter__(self) -> str:
        if self._path is None or self._shared is False:
            return ""
        self._path.touch()
        return self._path.name

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _begin(cell: _Running, on_event: OnEvent) -> None:
    if not cell.began:
        cell.began = True
        on_event(Started(cell.task.cell_id))


def _say_where_it_goes_on(cell: _Running) -> None:
    steps = list(step_folders(RunFolder(cell.task.folder).checkpoints))
    shared = cell.place is not None and cell.place.shared
    where = (
        f"it goes on from the checkpoint of step {steps[-1]}"
        if shared and steps
        else "it starts over: no checkpoint was saved yet"
        if shared
        else "it starts over: its folder was on that node alone"
    )
    _log.warning("cell %s lost its node; %s", cell.task.cell_id, where)


def _import() -> Any:
    """Import ray without its reports of usage, and without its changes to what a task sees of GPUs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray
