"""Serve code snippets inside the sandbox, each in a process tree, scratch folder and limits of its own.

This text is handed to the system's Python (`python3 -I -S -c`): the standard library is all that is there. The
server forks once per snippet, so that the interpreter is always warm. Isolated, the fork is the first process of
a new PID namespace: when it dies, the kernel kills whatever the snippet left behind. A snippet can neither see
nor signal the server, and what the server knows of it comes from the kernel, never from the snippet.

One line of JSON per request (`{"code": …}`) and per answer (`kind`, `output`, `status`, `seconds`).
"""

import atexit
import base64
import collections  # noqa: F401  (loaded once here, so that no snippet pays for it)
import ctypes
import datetime  # noqa: F401
import decimal  # noqa: F401
import fractions  # noqa: F401
import functools  # noqa: F401
import io
import itertools  # noqa: F401
import json
import math
import os
import random  # noqa: F401
import re  # noqa: F401
import resource
import select
import shutil
import signal
import statistics  # noqa: F401
import sys
import tempfile
import threading
import time
import traceback
from typing import Any, cast

NEWNS, NEWIPC, NEWPID = 0x00020000, 0x08000000, 0x20000000
NOSUID, NODEV, NOEXEC, READONLY = 2, 4, 8, 1
SET_SECCOMP, FILTER, SET_NO_NEW_PRIVS, CAP_AMBIENT, CLEAR_ALL = 22, 2, 38, 47, 4
MEMORY_ERROR = 86
"""Exit status of a snippet that ended with a MemoryError."""
POLL = 0.02
"""Seconds between two looks at what a snippet uses."""
TICKS = os.sysconf("SC_CLK_TCK")
OVERHEAD = 3
"""Processes that are there before the snippet's first: the server, the snippet's init, the snippet."""

Settings = dict[str, Any]
Answer = dict[str, Any]

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


class Server:
    """Runs one snippet at a time; `settings` is what `alpkit.sandbox.limits` writes."""

    def __init__(self, settings: Settings, requests: int, answers: int) -> None:
        self.settings, self.requests, self.answers = settings, requests, answers
        self.isolated = settings["isolated"]
        self.namespace = os.open("/proc/self/ns/pid", os.O_RDONLY) if self.isolated else -1
        self.buffer = b""

    def serve(self) -> None:
        """Answer requests until the other side goes away."""
        self.answer({"ready": True})
        while True:
            line = self.next_line()
            if line is None:
                return
            self.answer(self.run(json.loads(line)["code"]))

    def next_line(self) -> bytes | None:
        while b"\n" not in self.buffer:
            chunk = os.read(self.requests, 65536)
            if not chunk:
                return None
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def answer(self, fields: Answer) -> None:
        data = json.dumps(fields).encode() + b"\n"
        while data:
            data = data[os.write(self.answers, data) :]

    def run(self, code: str) -> Answer:
        """Run one snippet and say how it ended."""
        scratch = "/tmp" if self.isolated else tempfile.mkdtemp(prefix="alpkit-scratch-")
        (out, out_end), (told, told_end) = os.pipe(), os.pipe()
        start = time.monotonic()
        ended: tuple[str, bytes, Any]
        try:
            init = self.fork(code, scratch, out_end, told_end)
        except OSError as error:
            ended = ("broken", b"", str(error))
        else:
            os.close(out_end)
            os.close(told_end)
            out_end = told_end = -1
            ended = self.watch(init, out, told, start)
        finally:
            for fd in (out, told, out_end, told_end):
                if fd >= 0:
                    os.close(fd)
            if not self.isolated:
                shutil.rmtree(scratch, ignore_errors=True)
        kind, output, status = ended
        return {
            "kind": kind,
            "output": output.decode("utf-8", "replace"),
            "status": status,
            "seconds": time.monotonic() - start,
        }

    def fork(self, code: str, scratch: str, out: int, told: int) -> int:
        """Start the snippet's init, isolated as the first process of a new PID namespace."""
        if not self.isolated:
            init = os.fork()
        else:
            check(libc.unshare(NEWPID), "unshare")
            init = os.fork()
        if init == 0:
            # Nothing of the server may run in here again, whatever happens.
            try:
                run_init(self.settings, code, scratch, out, told)
            finally:
                os._exit(1)
        if self.isolated:
            check(libc.setns(self.namespace, NEWPID), "setns")
        return init

    def watch(self, init: int, out: int, told: int, start: float) -> tuple[str, bytes, Any]:
        """Wait for the end or a limit, then kill all that is left; gives kind, output and exit status."""
        kind, output, report = "", b"", b""
        limit = self.settings["output_bytes"]
        os.set_blocking(out, False)
        poller = select.poll()
        for fd in (out, told, self.requests):
            poller.register(fd, select.POLLIN)
        deadline = start + self.settings["wall_seconds"]
        looked = start
        while not kind:
            ready = dict(poller.poll(1000 * POLL))
            if self.requests in ready and not self.more_requests():
                self.kill(init)
                raise SystemExit  # whoever asked is gone
            if out in ready:
                chunk = read_some(out)
                output += chunk
                if not chunk:
                    poller.unregister(out)
            if told in ready:
                report = os.read(told, 65536)
                kind = "ended"
            now = time.monotonic()
            if len(output) > limit:
                kind = "output"
            elif not kind and now > deadline:
                kind = "wall_time"
            elif not kind and self.isolated and now - looked > POLL:
                looked = now
                kind = self.past_a_limit()
        self.kill(init)
        output += read_all(out, limit)
        if kind == "ended":
            kind, status = self.ending(report)
            return (
                ("output", output[:limit], None) if len(output) > limit else (kind, output, status)
            )
        return kind, output[:limit], None

    def past_a_limit(self) -> str:
        """Look at all processes of the snippet together: one by one, the kernel's own limits hold."""
        cpu, memory = in_use()
        if cpu > self.settings["cpu_seconds"]:
            return "cpu_time"
        return "memory" if memory > self.settings["memory_bytes"] else ""

    def more_requests(self) -> bool:
        """Read ahead; False where the other side is gone."""
        chunk = os.read(self.requests, 65536)
        self.buffer += chunk
        return bool(chunk)

    def kill(self, init: int) -> None:
        # Isolated, the kernel kills the whole namespace with its first process, and waitpid waits for that.
        try:
            if self.isolated:
                os.kill(init, signal.SIGKILL)
            else:
                os.killpg(init, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(init, 0)

    def ending(self, report: bytes) -> tuple[str, Any]:
        """Read what the init says of the snippet's end."""
        if not report:
            return "signal", None
        told = json.loads(report)
        if "broken" in told:
            return "broken", told["broken"]
        code = os.waitstatus_to_exitcode(told["wait"])
        if code == -signal.SIGXCPU or (
            code == -signal.SIGKILL and told["cpu"] >= self.settings["cpu_seconds"]
        ):
            return "cpu_time", None
        if code < 0:
            return "signal", -code
        if code == MEMORY_ERROR:
            return "memory", None
        return ("ok" if code == 0 else "error"), code


def read_some(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""


def read_all(fd: int, limit: int) -> bytes:
    """Read what is left in a pipe, as far as it can be of use."""
    data = b""
    while len(data) <= limit and (chunk := read_some(fd)):
        data += chunk
    return data


def in_use() -> tuple[float, int]:
    """CPU seconds and bytes of memory of every process that this server can see but itself."""
    ticks = memory = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                times = file.read().rpartition(")")[2].split()[11:15]
            with open(f"/proc/{name}/status") as file:
                lines = file.read().split("\n")
        except OSError:
            continue  # it has ended: its time is now its parent's
        ticks += sum(
            int(time) for time in times
        )  # its own, and that of children that have been waited for
        for line in lines:
            if line.startswith(("RssAnon:", "RssShmem:")):
                memory += 1024 * int(line.split()[1])
    return ticks / TICKS, memory


def run_init(settings: Settings, code: str, scratch: str, out: int, told: int) -> None:
    """Be the first process of the snippet's namespace: set it up, start the snippet, tell its end, be killed."""
    try:
        # kill(0, …) reaches a whole process group, whatever namespace its members are in: not the server's.
        os.setsid()
        if settings["isolated"]:
            isolate(settings)
        os.chdir(scratch)
        child = os.fork()
    except Exception as error:
        os.write(told, json.dumps({"broken": f"{type(error).__name__}: {error}"}).encode())
        return
    if child == 0:
        try:
            run_snippet(settings, code, scratch, out)
        finally:
            os._exit(1)
    os.close(out)
    while True:
        pid, wait, usage = os.wait4(-1, 0)
        if pid == child:
            break
    os.write(
        told, json.dumps({"wait": wait, "cpu": usage.ru_utime + usage.ru_stime + 0.05}).encode()
    )
    while True:
        signal.pause()


def isolate(settings: Settings) -> None:
    """Give the snippet an empty scratch folder, hide /proc, and give up every right for ever."""
    check(libc.unshare(NEWNS | NEWIPC), "unshare")
    size = f"size={settings['scratch_bytes']},nr_inodes={settings['scratch_files']},mode=0700"
    mount("/tmp", NOSUID | NODEV | NOEXEC, size)
    mount("/proc", NOSUID | NODEV | NOEXEC | READONLY, "size=4k,nr_inodes=2")
    check(libc.prctl(CAP_AMBIENT, CLEAR_ALL, 0, 0, 0), "prctl CAP_AMBIENT_CLEAR_ALL")
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    check(libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl NO_NEW_PRIVS")
    filter_calls(base64.b64decode(settings["filter"]))


def mount(place: str, flags: int, options: str) -> None:
    check(
        libc.mount(b"tmpfs", place.encode(), b"tmpfs", ctypes.c_ulong(flags), options.encode()),
        f"mount {place}",
    )


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def filter_calls(program: bytes) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    told = Program(len(program) // 8, ctypes.cast(held, ctypes.c_void_p))
    check(libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(told), 0, 0), "prctl SECCOMP")


def limit_resources(settings: Settings) -> None:
    cpu = math.ceil(settings["cpu_seconds"])
    wanted = {
        # Whole seconds of one process. Past the first a signal ends it; one that ignores it is killed at the second.
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_AS: settings["memory_bytes"],
        resource.RLIMIT_FSIZE: settings["file_bytes"],
        resource.RLIMIT_NOFILE: settings["open_files"],
        resource.RLIMIT_CORE: 1,  # 0 would still feed a program that collects core dumps; 1 forbids both
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 64,
    }
    if settings["isolated"]:
        # Counted within the sandbox's user namespace; elsewhere it would count all of the user's processes.
        wanted[resource.RLIMIT_NPROC] = settings["processes"] + OVERHEAD - 1
    for which, value in wanted.items():
        soft, hard = value if isinstance(value, tuple) else (value, value)
        most = resource.getrlimit(which)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(which, (soft, hard))


def run_snippet(settings: Settings, code: str, scratch: str, out: int) -> None:
    """Become the snippet; leaves the process with its exit status."""
    nothing = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.closerange(3, 1024)
    for stream in (sys.stdout, sys.stderr):
        cast(io.TextIOWrapper, stream).reconfigure(
            encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
    os.environ.clear()
    os.environ.update(
        PATH="/usr/bin:/bin", HOME=scratch, TMPDIR=scratch, LANG="C.UTF-8", PWD=scratch
    )
    tempfile.tempdir = None
    sys.argv = [""]
    limit_resources(settings)
    status = 1
    try:
        status = execute(code)
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as an ordinary end does
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        pass
    os._exit(status)


def execute(code: str) -> int:
    """Run the text as a program of its own; gives the exit status that Python would."""
    space = {"__name__": "__main__", "__builtins__": __builtins__, "__doc__": None}
    module = type(sys)("__main__")
    module.__dict__.update(space)
    sys.modules["__main__"] = module
    try:
        exec(compile(code, "<code>", "exec"), module.__dict__)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 0xFF
        sys.stderr.write(f"{stop.code}\n")
        return 1
    except MemoryError:
        sys.stdout.flush()
        os.write(2, b"MemoryError\n")
        return MEMORY_ERROR
    except BaseException as error:
        shown = error.__traceback__.tb_next if error.__traceback__ else None
        sys.stdout.flush()
        traceback.print_exception(type(error), error, shown)
        return 1
    return 0


def main() -> None:
    """Serve on standard input and output, which no snippet ever holds."""
    settings = json.loads(sys.argv[1])
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open("/dev/null", os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(nothing, target)
    # A first process ignores every signal from inside that has its default action.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # where the machine runs out of memory, this goes first
    except OSError:
        pass
    Server(settings, requests, answers).serve()


if __name__ == "__main__":
    main()
