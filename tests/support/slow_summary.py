"""Write what `make test-slow` found in ten lines: `python -m tests.support.slow_summary LOG PAGE`."""

import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

SLOWEST = 6


def summary(log: str, commit: str) -> str:
    """A page of ten lines: when and where, the counts, and the slowest tests."""
    lines = log.splitlines()
    counts = next(
        (line.strip("= ") for line in reversed(lines) if " in " in line and "s" in line),
        "no result",
    )
    calls = [
        re.sub(r"\s+", " ", line.strip()) for line in lines if re.match(r"\s*[\d.]+s call", line)
    ]
    where = f"Python {platform.python_version()}, {platform.machine()}"
    head = f"{datetime.now(UTC):%Y-%m-%d}, {commit}, {where}"
    listed = [f"- {call}" for call in calls[:SLOWEST]]
    return "\n".join(["# `make test-slow`", head, f"Result: {counts}", "Slowest:", *listed]) + "\n"


if __name__ == "__main__":
    log, page = map(Path, sys.argv[1:])
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    page.write_text(summary(log.read_text(errors="replace"), asked.stdout.strip() or "no commit"))
