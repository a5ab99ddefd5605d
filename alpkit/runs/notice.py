"""A notice to stop: whoever trains saves a checkpoint after the step it is in, and ends.

A signal handler or a launcher gives the notice in this process; the trainer asks between steps.
"""

import threading

from alpkit.errors import AlpkitError

_asked = threading.Event()


class Stopped(AlpkitError):
    """A cell that ended early because it was asked to, with its state saved."""

    exit_code = 130


def ask_to_stop() -> None:
    """Give the notice; a second one changes nothing."""
    _asked.set()


def asked_to_stop() -> bool:
    """Whether the notice was given."""
    return _asked.is_set()


def take_back() -> None:
    """Forget a notice: what begins now was not meant."""
    _asked.clear()


def stopped(step: int) -> Stopped:
    """Make the error of a cell that ends after `step`."""
    return Stopped(
        f"stopped after step {step}, whose checkpoint is saved", fix="run the same command again"
    )
