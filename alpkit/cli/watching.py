"""`alpkit show --watch`: what a running grid's folder tells, as the display of `alpkit run`.

Reads the folder alone, from any process that sees it; the store is not asked.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from alpkit.cli.board import HEADLINE
from alpkit.cli.output import err, note
from alpkit.cli.progress import screen
from alpkit.config import Cell
from alpkit.config.stored import load_run
from alpkit.errors import AlpkitError
from alpkit.launch import Ended, Event, Started, Stepped
from alpkit.runs.find import resolve
from alpkit.runs.folder import RunFolder
from alpkit.runs.lock import is_live
from alpkit.runs.states import CellRecord, killed_if_not_live, read_grid
from alpkit.runs.steps import newest_step

_PAUSE: Final = 1.0
_OVER: Final = ("finished", "failed", "killed")


def watch(run_id: str, *, as_json: bool, pause: float = _PAUSE) -> None:
    """Follow a grid until no process runs it."""
    folder = resolve(run_id).folder
    if not is_live(folder):
        note(f"{folder.name} is not running")
        return
    cells = _cells(folder)
    console = err()
    with screen(cells, console, plain=as_json or not console.is_terminal) as show:
        for event in events(folder, set(cells), pause):
            if as_json:
                print(json.dumps(_plain(event)), flush=True)
            else:
                show(event)


def events(folder: Path, cells: set[str], pause: float) -> Iterator[Event]:
    """Turn what changes in a grid's folder into the events of its launch, until the launch is over."""
    steps: dict[str, int] = {}
    before = {record.cell_id: record.state for record in read_grid(folder).cells}
    while True:
        # Asked first: what is written until then is read below.
        live = is_live(folder)
        for record in killed_if_not_live(read_grid(folder).cells, live=live):
            began = record.state == "running" or record.state != before[record.cell_id]
            if record.cell_id in cells and began:
                yield from _changes(folder, record, steps)
                if record.state in _OVER:
                    cells.discard(record.cell_id)
        if not live or not cells:
            return
        time.sleep(pause)


def _changes(folder: Path, record: CellRecord, steps: dict[str, int]) -> Iterator[Event]:
    name, state = record.cell_id, record.state
    if name not in steps:
        steps[name] = -1
        yield Started(name)
    newest = newest_step(folder / name)
    if newest is not None and newest.step > steps[name]:
        steps[name] = newest.step
        known = {key: value for key, value in newest.metrics.items() if value is not None}
        yield Stepped(name, newest.step, known)
    if state == "finished" or state == "failed" or state == "killed":
        yield Ended(name, state, record.error)


def _cells(folder: Path) -> dict[str, Cell]:
    """Give the cells that may still run, with the steps that each is to take."""
    found = {}
    for listed in read_grid(folder).cells:
        try:
            config = load_run(RunFolder(folder / listed.cell_id).config)
        except AlpkitError:
            continue
        if listed.state != "finished":
            cell = Cell(listed.cell_id, listed.arm, listed.seed, {}, config)
            found[listed.cell_id] = cell
    return found


def _plain(event: Event) -> Mapping[str, object]:
    told = {"event": type(event).__name__.lower(), **asdict(event)}
    if isinstance(event, Stepped):
        told["metrics"] = {name: event.metrics.get(key) for key, name in HEADLINE}
    return told
