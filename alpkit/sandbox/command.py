"""The command line that starts a worker: under bubblewrap, or as a process with limits only.

Under bubblewrap a worker has no network, a file system of the system's Python with its standard library and
shared libraries and nothing else, PID, IPC, UTS and user namespaces of its own, and one right within them
(CAP_SYS_ADMIN), which no snippet keeps: with it the worker gives every snippet a PID namespace and a scratch folder
of its own. As root, the whole of it runs as an unprivileged user: the limit of processes does not bind root.
"""

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple

from alpkit.errors import PrerequisiteError
from alpkit.sandbox.limits import Limits
from alpkit.sandbox.seccomp import MACHINES, program

UNPRIVILEGED: Final = 65534
"""The user and group that stand for nobody: what root's workers run as."""
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_PYTHON: Final = "/usr/bin/python3"
_SITE_FOLDERS: Final = ("site-packages", "dist-packages")


class Python(NamedTuple):
    """The system's interpreter, as a path without links, and the folders of its standard library."""

    program: str
    library: tuple[str, ...]


def strict_command(limits: Limits) -> list[str]:
    """Give the command that starts an isolated worker; `PrerequisiteError` where this machine has no means."""
    wrapper = shutil.which("bwrap")
    if wrapper is None:
        raise PrerequisiteError(
            "code of a model cannot be isolated: bubblewrap is not installed",
            where="environment.sandbox",
            why="without it, code that a model writes would run with your files and your network",
            fix="apt-get install bubblewrap (dnf, pacman: the same name), or set environment.sandbox: weak",
        )
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES:
        raise PrerequisiteError(
            f"code of a model cannot be isolated on {sys.platform} {machine}",
            where="environment.sandbox",
            why=f"the filter of system calls is written for Linux on {' and '.join(MACHINES)}",
            fix="run it on such a machine, or set environment.sandbox: weak",
        )
    python = system_python()
    if python is None:
        raise PrerequisiteError(
            f"code of a model cannot be isolated: there is no {_PYTHON}",
            where="environment.sandbox",
            why="the system's own Python is what runs inside; yours would bring its packages along",
            fix="apt-get install python3, or set environment.sandbox: weak",
        )
    settings = limits.settings(isolated=True, program=program(machine))
    return [
        wrapper,
        *_namespaces(),
        *_file_system(python),
        "--",
        *_worker(python.program, settings),
    ]


def weak_command(limits: Limits) -> list[str]:
    """Give the command that starts a worker with limits only."""
    python = system_python()
    settings = limits.settings(isolated=False, program=b"")
    return _worker(python.program if python else sys.executable, settings)


def identity() -> dict[str, object]:
    """Say whom `subprocess.Popen` is to start a worker as: root's become nobody."""
    if os.getuid() != 0:
        return {}
    return {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}


@cache
def system_python() -> Python | None:
    """Find the system's interpreter and its standard library; None where there is none."""
    if not os.path.exists(_PYTHON):
        return None
    ask = "import sysconfig; p = sysconfig.get_paths(); print(p['stdlib']); print(p['platstdlib'])"
    try:
        told = subprocess.run(
            [_PYTHON, "-I", "-S", "-c", ask], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    folders = dict.fromkeys(line for line in told.stdout.split() if Path(line).is_dir())
    return Python(os.path.realpath(_PYTHON), tuple(folders))


def _namespaces() -> list[str]:
    return [
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
        *("--unshare-cgroup-try", "--as-pid-1", "--hostname", "sandbox", "--clearenv"),
        *("--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"),
    ]


def _file_system(python: Python) -> list[str]:
    """Bind what the interpreter needs, read-only, into an empty root; /tmp and /proc are what snippets cover."""
    bound = [python.program, *python.library]
    links: list[str] = []
    multiarch = f"{platform.machine()}-linux-gnu"
    for place in (f"/usr/lib/{multiarch}", "/usr/lib64", f"/lib/{multiarch}", "/lib64"):
        top = "/" + place.split("/")[1]
        if not os.path.isdir(place):
            continue
        if os.path.islink(top):
            links += [top] if top not in links else []
        else:
            bound.append(place)
    command: list[str] = []
    for path in bound:
        command += ["--ro-bind", path, path]
    for folder in python.library:
        for name in _SITE_FOLDERS:
            if os.path.isdir(f"{folder}/{name}"):
                command += ["--tmpfs", f"{folder}/{name}", "--remount-ro", f"{folder}/{name}"]
    for link in links:
        command += ["--symlink", os.readlink(link), link]
    for device in _DEVICES:
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    return [*command, "--proc", "/proc", "--dir", "/tmp", "--remount-ro", "/", "--chdir", "/"]


def _worker(interpreter: str, settings: str) -> list[str]:
    source = files("alpkit.sandbox").joinpath("worker.py").read_text(encoding="utf-8")
    return [interpreter, "-I", "-S", "-c", source, settings]
