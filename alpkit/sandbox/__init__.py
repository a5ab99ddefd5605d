r"""Run code that nobody trusts: each snippet alone, without network or files, and never for long.

    with start() as sandbox:
        outcome = sandbox.run("print(6 * 7)")      # Outcome(kind="ok", output="42\n", …)

`start` refuses where this machine cannot isolate, unless it is told to be weak. How the isolation is made is in
`command.py` (namespaces and files), `worker.py` (limits, one process tree per snippet) and `seccomp.py` (system
calls); docs/sandbox.md says what it holds and what not. Needs neither torch nor any package.
"""

from alpkit.sandbox.limits import Limits
from alpkit.sandbox.outcome import Kind, Outcome
from alpkit.sandbox.pool import Sandbox, SandboxError
from alpkit.sandbox.starting import Isolation, check, start

__all__ = [
    "Isolation",
    "Kind",
    "Limits",
    "Outcome",
    "Sandbox",
    "SandboxError",
    "check",
    "start",
]
