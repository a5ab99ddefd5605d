"""What a snippet must not reach: files, sockets, a process and a secret, put up beside the sandbox."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import alpkit.sandbox
from alpkit.sandbox import Outcome
from alpkit.sandbox.command import identity
from tests.sandbox import hostile

SECRET = "a canary in the environment"
CONTENT = "what was there before"


class Outside(NamedTuple):
    """What there is, and how to see whether it was touched."""

    found: dict[str, object]
    servers: tuple[socket.socket, ...]
    victim: subprocess.Popen[bytes]
    canary: Path

    def touched(self) -> list[str]:
        """Say what a snippet has reached; empty where all held."""
        faults = []
        if self.canary.read_text() != CONTENT or os.listdir(self.canary.parent) != ["canary"]:
            faults.append("the file, or the folder, that anybody may write")
        if self.victim.poll() is not None:
            faults.append("the process of the same user")
        for server in self.servers:
            try:
                server.accept()
            except BlockingIOError:
                continue
            faults.append(f"the socket {server.getsockname()!r}")
        return faults


@contextmanager
def outside() -> Iterator[Outside]:
    """Put everything up, reachable for every user of the machine but for a sandbox."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="alpkit-outside-"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        (folder / "open").mkdir(mode=0o777)
        (folder / "open").chmod(0o777)
        canary = folder / "open" / "canary"
        canary.write_text(CONTENT)
        canary.chmod(0o666)
        abstract = folder.name
        places: list[tuple[int, object]] = [
            (socket.AF_INET, ("127.0.0.1", 0)),
            (socket.AF_UNIX, str(folder / "socket")),
            (socket.AF_UNIX, f"\0{abstract}"),
        ]
        servers = tuple(stack.enter_context(socket.socket(family)) for family, _ in places)
        for server, (_, place) in zip(servers, places, strict=True):
            server.bind(place)
            server.listen()
            server.setblocking(False)
        (folder / "socket").chmod(0o777)
        victim = subprocess.Popen(["/bin/sleep", "600"], **identity())
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        found: dict[str, object] = {
            "port": servers[0].getsockname()[1],
            "socket": folder / "socket",
            "abstract": abstract,
            "canary": canary,
            "pid": victim.pid,
        }
        yield Outside({key: str(value) for key, value in found.items()}, servers, victim, canary)


def as_ordinary_user(found: dict[str, object]) -> dict[str, Outcome]:
    """Run every hostile snippet from a process of an ordinary user (root's tests become nobody)."""
    with tempfile.TemporaryDirectory(prefix="alpkit-ordinary-") as name:
        # A copy that every user may read: a checkout, and Python's own environment, often lie in root's home.
        root, package = Path(name), Path(alpkit.sandbox.__file__).parent
        root.chmod(0o755)
        shutil.copytree(package, root / "alpkit" / "sandbox")
        (root / "alpkit" / "errors.py").write_text((package.parent / "errors.py").read_text())
        shutil.copy(hostile.__file__, root / "hostile.py")
        command = ["/usr/bin/python3", str(root / "hostile.py"), json.dumps(found)]
        done = subprocess.run(
            command,
            env={"PYTHONPATH": name, "PATH": "/usr/bin:/bin", "SECRET": SECRET},
            capture_output=True,
            text=True,
            cwd="/",
            **identity(),
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: Outcome(*fields) for name, fields in json.loads(done.stdout).items()}


def left_behind() -> list[int]:
    """Processes that are left of any sandbox with the hostile snippets' limits."""
    mark = f'"memory_bytes": {hostile.LIMITS.memory_mib << 20}'.encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if mark in line and int(name) not in (os.getpid(), os.getppid()):
            found.append(int(name))
    return found
