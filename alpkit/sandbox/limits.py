"""Limits of one snippet: the most that it may use."""

import json
from base64 import b64encode
from dataclasses import dataclass
from typing import Final

from alpkit.sandbox.outcome import Kind

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of one snippet with everything that it starts."""

    cpu_seconds: float = 5.0
    """CPU time of all its processes together; in a weak sandbox of each, in whole seconds."""
    wall_seconds: float = 10.0
    """From start to end; longer than the CPU time, so that a busy machine does not decide what a model sees."""
    memory_mib: int = 256
    """Of each process (its address space), and of all together (what they really use)."""
    processes: int = 16
    """Processes and threads, the first one included."""
    file_mib: int = 8
    """The largest file."""
    scratch_mib: int = 16
    """All files together."""
    scratch_files: int = 1024
    open_files: int = 64
    output_kib: int = 64
    """Output past this ends the snippet."""

    def settings(self, *, isolated: bool, program: bytes) -> str:
        """Write what `worker.py` reads: these limits, and the filter of system calls."""
        return json.dumps(
            {
                "isolated": isolated,
                "filter": b64encode(program).decode(),
                "cpu_seconds": self.cpu_seconds,
                "wall_seconds": self.wall_seconds,
                "memory_bytes": self.memory_mib * MIB,
                "processes": self.processes,
                "file_bytes": self.file_mib * MIB,
                "scratch_bytes": self.scratch_mib * MIB,
                "scratch_files": self.scratch_files,
                "open_files": self.open_files,
                "output_bytes": self.output_kib << 10,
            }
        )

    def words(self, kind: Kind) -> str:
        """Say the limit that `kind` is named after."""
        match kind:
            case "cpu_time":
                return f"{self.cpu_seconds:g} s of CPU time"
            case "wall_time":
                return f"{self.wall_seconds:g} s"
            case "memory":
                return f"{self.memory_mib} MiB of memory"
            case "output":
                return f"{self.output_kib} KiB of output"
            case _:
                return ""
