"""Start a sandbox, having proved that it isolates; what a weak one leaves open is in `alpkit.config.environment`."""

import json
from functools import cache
from typing import Final, Literal

from alpkit.sandbox.command import strict_command, weak_command
from alpkit.sandbox.limits import Limits
from alpkit.sandbox.pool import Sandbox, SandboxError

Isolation = Literal["strict", "weak"]

_PROOF: Final = """
import json, os, socket, time
told = {"files": sorted(os.listdir("/")), "network": True, "forked": 0}
try:
    # Looks for a route, and sends nothing.
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))
except OSError:
    told["network"] = False
try:
    for _ in range(%d):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        told["forked"] += 1
except OSError:
    pass
print(json.dumps(told))
"""


def start(
    isolation: Isolation = "strict",
    *,
    seconds: float = 5.0,
    memory_mib: int = 256,
    limits: Limits | None = None,
    workers: int | None = None,
) -> Sandbox:
    """Start a sandbox whose snippets may use `seconds` of CPU and twice that of time.

    `limits` replaces both. Raises `PrerequisiteError` or `SandboxError` where strict isolation is not to be had on
    this machine; workers start when they are first needed.
    """
    limits = limits or Limits(seconds, 2 * seconds, memory_mib)
    if isolation == "weak":
        return Sandbox(weak_command(limits), limits, workers=workers)
    check()
    return Sandbox(strict_command(limits), limits, workers=workers)


@cache
def check() -> None:
    """Prove once per process that a strict sandbox keeps its promises here; raises where it cannot.

    A promise is tried, not assumed: what a snippet sees of files, network and processes depends on the kernel and on
    who has configured it.
    """
    limits = Limits(processes=4)
    with Sandbox(strict_command(limits), limits, workers=1) as sandbox:
        outcome = sandbox.run(_PROOF % (3 * limits.processes))
    if outcome.kind != "ok":
        raise _broken(f"a first snippet ended with {outcome.kind}: {outcome.text[-200:]}")
    told = json.loads(outcome.output)
    extra = set(told["files"]) - {"dev", "lib", "lib64", "proc", "tmp", "usr"}
    if extra:
        raise _broken(f"a snippet sees {', '.join(sorted(extra))}")
    if told["network"]:
        raise _broken("a snippet has a way into the network")
    if told["forked"] >= limits.processes:
        raise _broken(f"a snippet started {told['forked']} processes of {limits.processes} allowed")


def _broken(why: str) -> SandboxError:
    return SandboxError(
        "the sandbox does not isolate on this machine",
        where="environment.sandbox",
        why=why,
        fix="use a Linux of 5.14 or newer, or set environment.sandbox: weak",
    )
