"""Run one cell, in whichever process: its tracker, its trainer, and the text of its failure."""

import traceback

from alpkit.errors import AlpkitError
from alpkit.launch.base import CellTask, load_trainer
from alpkit.runs.steps import CellTracker, OnStep


def run_cell(task: CellTask, on_step: OnStep) -> None:
    """Train the cell; `on_step` hears every step after its line is in the file."""
    tracker = CellTracker(task.folder, on_step=on_step)
    load_trainer(task.trainer)(task.config, task.folder, tracker)


def failure_text(error: BaseException) -> str:
    """Give one readable line, then the traceback; an `AlpkitError` needs none."""
    if isinstance(error, AlpkitError):
        return str(error)
    head = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
    return f"{head}\n{''.join(traceback.format_exception(error)).rstrip()}"
