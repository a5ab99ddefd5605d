"""Warm workers: order, several threads, loss, speed, and what a sandbox says of itself."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alpkit.errors import AlpkitError, PrerequisiteError
from alpkit.sandbox import (
    Limits,
    Outcome,
    Sandbox,
    SandboxError,
    start,
    starting,
)
from alpkit.sandbox.command import UNPRIVILEGED

LIMITS = Limits(cpu_seconds=1, wall_seconds=30, memory_mib=100)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with start(limits=LIMITS, workers=2) as pool:
        yield pool


def test_an_outcome_holds_output_in_order_and_the_exit_status(sandbox: Sandbox) -> None:
    outcome = sandbox.run("import sys\nprint('a')\nprint('b', file=sys.stderr)\nprint('ü\\udcff')")
    assert outcome[:3] == ("ok", "a\nb\nü\\udcff\n", 0)
    assert 0 < outcome.seconds < LIMITS.wall_seconds
    assert sandbox.run("raise SystemExit(3)")[:3] == ("error", "", 3)
    assert sandbox.run("raise SystemExit(3)").text == "[exit status 3]"
    assert sandbox.run("import sys; sys.exit('no')")[:3] == ("error", "no\n", 1)
    assert sandbox.run("x = 1").text == ""


def test_code_runs_as_a_program_of_its_own(sandbox: Sandbox) -> None:
    code = """
import threading, time, atexit, dataclasses, pickle
@dataclasses.dataclass
class Point:
    x: int
def later():
    time.sleep(0.05)
    print('thread')
threading.Thread(target=later).start()
atexit.register(print, 'end')
print(__name__, pickle.loads(pickle.dumps(Point(3))))
"""
    assert sandbox.run(code).text == "__main__ Point(x=3)\nthread\nend"


def test_a_fault_in_the_code_shows_its_own_lines_only(sandbox: Sandbox) -> None:
    text = sandbox.run("def f():\n    return 1 / 0\nf()").text
    assert text.splitlines()[1:] == [
        '  File "<code>", line 3, in <module>',
        '  File "<code>", line 2, in f',
        "ZeroDivisionError: division by zero",
    ]
    assert "SyntaxError" in sandbox.run("print('x'").text
    assert sandbox.run("null = '\0'").kind == "error"


def test_outcomes_come_in_the_order_of_the_snippets(sandbox: Sandbox) -> None:
    codes = [f"import time; time.sleep({0.05 * (i % 3)}); print({i})" for i in range(9)]
    assert [outcome.text for outcome in sandbox.run_all(codes)] == [str(i) for i in range(9)]
    assert sandbox.run_all([]) == []


def test_several_threads_may_ask_at_once(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(6) as threads:
        outcomes = list(threads.map(sandbox.run, [f"print({i})" for i in range(24)]))
    assert [outcome.text for outcome in outcomes] == [str(i) for i in range(24)]


def test_a_long_snippet_and_a_long_output_arrive_whole(sandbox: Sandbox) -> None:
    text = "y" * 60_000
    assert sandbox.run(f"print('{text}')").output == text + "\n"
    assert sandbox.run("#" * 1_000_000 + "\nprint(1)").text == "1"


def test_a_long_error_keeps_its_beginning_and_its_end(sandbox: Sandbox) -> None:
    text = sandbox.run("print('first')\nprint('x' * 5000)\n1 / 0").text
    assert text.startswith("first\n")
    assert text.endswith("ZeroDivisionError: division by zero")
    assert len(text) < 700


def test_a_worker_that_is_lost_is_replaced_and_the_outcome_says_so() -> None:
    with start(limits=LIMITS, workers=1) as pool:
        assert pool.run("print(1)").text == "1"
        (worker,) = pool._live
        os.killpg(worker._process.pid, signal.SIGKILL)
        lost = pool.run("print(2)")
        assert lost == Outcome("lost")
        assert lost.text == "[stopped: it took the sandbox down]"
        assert pool.run("print(3)").text == "3"
    with pytest.raises(SandboxError, match="closed"):
        pool.run("print(4)")


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    mark = 123_456_789
    code = f"""
import os, signal
from alpkit.sandbox import Limits, start
pool = start(limits=Limits(scratch_files={mark}), workers=1)
pool.run("1")
print("started", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("started\n", -signal.SIGKILL)
    deadline = time.monotonic() + 30
    while _running(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _running(mark) == 0


def test_fifty_short_snippets_a_second_fit_on_two_cores(sandbox: Sandbox) -> None:
    # CPU time, not wall-clock: two cores that others use, too, give fewer; docs/sandbox.md has the rate alone.
    sandbox.run_all(["1"] * 4)
    before, count = _cpu_seconds(sandbox), 60
    outcomes = sandbox.run_all([f"print(sum(range({i})) ** 2)" for i in range(count)])
    assert {outcome.kind for outcome in outcomes} == {"ok"}
    assert (_cpu_seconds(sandbox) - before) / count < 2 / 50


def test_a_weak_sandbox_keeps_its_limits() -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=2, memory_mib=100, file_mib=1, output_kib=4)
    with start("weak", limits=limits, workers=1) as pool:
        assert pool.run("import os; print(6 * 7, os.listdir(), sorted(os.environ))").text == (
            "42 [] ['HOME', 'LANG', 'PATH', 'PWD', 'TMPDIR']"
        )
        assert pool.run("bytearray(1 << 30)").kind == "memory"
        assert pool.run("while True: print('x' * 99)").kind == "output"
        assert pool.run("import time; time.sleep(60)").kind == "wall_time"
        assert pool.run("open('f', 'wb').write(bytes(2 << 20))").kind == "error"
        scratch = Path(pool.run("import os; open('kept', 'w'); print(os.getcwd())").text)
        assert not scratch.exists()
        if os.getuid() == 0:
            assert pool.run("import os; print(os.getuid())").text == str(UNPRIVILEGED)


def test_strict_is_refused_without_bubblewrap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    starting.check.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrerequisiteError, match="bubblewrap") as refused:
        start()
    assert "environment.sandbox: weak" in refused.value.fix
    monkeypatch.undo()
    starting.check()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "No permissions"),
        # Two that isolate nothing, or too little: trying it out finds that.
        ('while [ "$1" != -- ]; do shift; done; shift; exec "$@"', "Operation not permitted"),
        ('exec /usr/bin/bwrap --ro-bind /etc /etc "$@"', "a snippet sees etc"),
    ],
)
def test_strict_is_refused_where_bubblewrap_does_not_isolate(
    script: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not pytest's folder: as root, bubblewrap runs as a user who may not look into that.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        _refuse(Path(name), script, said, monkeypatch)


def _refuse(folder: Path, script: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = folder / "bwrap"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    starting.check.cache_clear()
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(AlpkitError) as refused:
        start()
    assert said in refused.value.why
    assert "environment.sandbox: weak" in refused.value.fix
    starting.check.cache_clear()


def _running(mark: int) -> int:
    """Processes with this number among their arguments."""
    lines = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            lines.append(Path(f"/proc/{name}/cmdline").read_bytes())
        except OSError:
            continue
    return sum(f'"scratch_files": {mark}'.encode() in line for line in lines)


def _cpu_seconds(pool: Sandbox) -> float:
    """CPU time of the workers inside bubblewrap with every snippet that they have waited for."""
    ticks = 0
    for worker in pool._live:
        own = worker._process.pid
        inside = Path(f"/proc/{own}/task/{own}/children").read_text().split()[0]
        fields = Path(f"/proc/{inside}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")
