"""Grade in a process of its own: read a gold and a given answer per line of JSON, write a verdict per line.

Started by `alpkit.tasks.math.pool` as `python -m alpkit.tasks.math.checker`; it ends when its input does,
so that it never outlives whoever started it.
"""

import json
import os
import resource
import sys

_MEMORY = 4 * 2**30
"""Bytes of address space: an answer like 9^{9^{9^9}} must not take the machine with it."""


def main() -> None:
    """Serve checks until the input closes."""
    # Verdicts go through a private copy of stdout: a library that prints must not look like one.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    from alpkit.tasks.math.equivalence import equivalent, fault

    # The first parse imports and compiles a grammar: better before the clock of a check runs.
    equivalent("x", r"\\sqrt{x}^2")

    def check(task: dict[str, str]) -> dict[str, object]:
        try:
            if "answer" in task:
                return {"right": equivalent(task["gold"], task["answer"])}
            return {"fault": fault(task["gold"])}
        except (Exception, RecursionError, MemoryError) as error:
            return {"error": f"{type(error).__name__}: {error}"[:200]}

    out.write("ready\n")
    out.flush()
    for line in sys.stdin:
        out.write(json.dumps(check(json.loads(line))) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
