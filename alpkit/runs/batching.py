"""`batching.npy`: how far batching alone moves the trainer's log-probs, one number per token.

A run measures it once, before its first update (`alpkit.trainer.batching_floor`); readers draw it beside the
ratios, which mean nothing below it.

    write_batching(folder, Batching(sample, difference)); scan_batching(folder)
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from alpkit.runs.faults import Contents, Fault, reason_of
from alpkit.runs.folder import RunFolder
from alpkit.runs.swap import swapped_file


class Batching(NamedTuple):
    """Per token: its response's number, and log-prob alone minus log-prob in a batch, nats."""

    sample: np.ndarray
    difference: np.ndarray


def write_batching(folder: Path, measured: Batching) -> None:
    """Write a cell's `batching.npy`; another one is replaced."""
    with swapped_file(RunFolder(folder).batching) as temporary, temporary.open("wb") as file:
        np.save(file, np.stack([measured.sample, measured.difference]).astype(np.float32))


def scan_batching(folder: Path) -> Contents[Batching]:
    """Read a cell's `batching.npy`: one measurement, or none and perhaps the reason why."""
    path = RunFolder(folder).batching
    if not path.is_file():
        return Contents([], [])
    try:
        table = np.load(path, allow_pickle=False)
        sample, difference = table.astype(np.float64)
    except (OSError, ValueError, EOFError, TypeError) as error:
        return Contents([], [Fault(path, f"cannot be read ({reason_of(error, path)})")])
    return Contents([Batching(sample, difference)], [])
