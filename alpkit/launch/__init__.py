"""Run a grid's cells, in worker processes (the default) or in this one."""

from alpkit.launch.adopt import adopt
from alpkit.launch.base import CellTask, Ended, Event, Launcher, OnEvent, Started, Stepped
from alpkit.launch.grid import (
    LauncherName,
    Options,
    Outcome,
    Retry,
    check,
    run_grid,
    selected,
    states,
)
from alpkit.launch.inline import Inline
from alpkit.launch.preflight import Look, load_grid, look
from alpkit.launch.processes import Processes
from alpkit.launch.publish import Synced, sync_grid

__all__ = [
    "CellTask",
    "Ended",
    "Event",
    "Inline",
    "Launcher",
    "LauncherName",
    "Look",
    "OnEvent",
    "Options",
    "Outcome",
    "Processes",
    "Retry",
    "Started",
    "Stepped",
    "Synced",
    "adopt",
    "check",
    "load_grid",
    "look",
    "run_grid",
    "selected",
    "states",
    "sync_grid",
]
