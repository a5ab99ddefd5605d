"""`alpkit run`: expand, check, launch, show, and say what to type next."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path

from alpkit.cli import tables
from alpkit.cli.output import charts_link, err, note, print_json, print_table, ui_command
from alpkit.cli.overview import load_frame, overview_rows, print_frame
from alpkit.cli.progress import screen
from alpkit.config import Grid
from alpkit.errors import TrackingError
from alpkit.launch import (
    LauncherName,
    Options,
    Outcome,
    Retry,
    adopt,
    check,
    load_grid,
    run_grid,
    states,
)
from alpkit.launch.base import PROFILED_TRAINER
from alpkit.runs.folder import RunFolder, report_page
from alpkit.runs.states import read_manifest
from alpkit.tracking import log_summary, resolve_uri


def options(
    file: Path,
    *,
    jobs: int | None,
    launcher: LauncherName | None,
    only: Sequence[str],
    retry: Retry,
    fail_fast: bool,
    tracking_uri: str | None,
    profile: bool = False,
) -> Options:
    chosen = Options(
        jobs=jobs,
        launcher=launcher,
        only=only,
        retry=retry,
        fail_fast=fail_fast,
        tracking_uri=tracking_uri,
        source=_source(file),
    )
    return replace(chosen, trainer=PROFILED_TRAINER) if profile else chosen


def run(
    file: Path,
    sets: Sequence[str],
    options: Options,
    *,
    dry_run: bool,
    as_json: bool,
    many: bool = False,
) -> bool:
    """Run the grid; True if nothing failed."""
    grid = adopt(load_grid(file, sets, many=many), options.root)
    todo = check(grid, options)
    for text in grid.notes:
        note(f"note: {text}")
    for text in grid.warnings:
        note(f"warning: {text}")
    if dry_run:
        _dry_run(grid, {cell.cell_id for cell in todo}, as_json=as_json)
        return True
    inline = (options.launcher or grid.launch.launcher) == "inline"
    console = err()
    console.print(f"{len(todo)} of {len(grid.cells)} cells to run in runs/{grid.name}/")
    if resolve_uri(options.tracking_uri).startswith("sqlite"):
        console.print("opening the tracking store (a new one takes several seconds) ...")
    # A debugger and a live display cannot share a terminal.
    plain = inline or not console.is_terminal
    # What an inline cell prints would end up in the middle of the JSON.
    stdout: AbstractContextManager[object] = (
        redirect_stdout(sys.stderr) if inline and as_json else nullcontext()
    )
    with stdout, screen({cell.cell_id: cell for cell in todo}, console, plain=plain) as show:
        outcome = run_grid(grid, options, show)
    for cell_id in outcome.skipped:
        states_of = {record.cell_id: record.state for record in outcome.records}
        note(f"skipped {cell_id}: it has {states_of.get(cell_id, 'finished')}")
    _report(outcome, options, as_json=as_json)
    return not outcome.failed


def _source(file: Path) -> str:
    """Read the file's text, to keep with the runs; empty where it cannot be read, which the YAML reader reports."""
    with suppress(OSError), file.open(encoding="utf-8", errors="replace") as text:
        return text.read(1_000_000)
    return ""


def _dry_run(grid: Grid, todo: set[str], *, as_json: bool) -> None:
    rows = tables.cell_rows(grid, states(grid))
    chosen = [row for row in rows if row["cell_id"] in todo]
    if as_json:
        print_json({"grid": grid.name, "grid_id": grid.grid_id, "would_run": chosen})
    else:
        print_table(tables.plan_table(chosen))
        note(f"dry run: {len(chosen)} of {len(rows)} cells would run; nothing was created")


def _profiles(outcome: Outcome, options: Options) -> list[RunFolder]:
    """List the launched cells that were profiled, if that was asked for."""
    if options.trainer != PROFILED_TRAINER:
        return []
    folders = [RunFolder(outcome.folder / cell_id) for cell_id in outcome.launched]
    return [folder for folder in folders if folder.profile_table.is_file()]


def _print_profiles(folders: Sequence[RunFolder]) -> None:
    """Print where a step's time went in the first cell, and name every cell's files."""
    for folder in folders[:1]:
        print(folder.profile_table.read_text(encoding="utf-8"))
    for folder in folders:
        note(
            f"profile: {folder.profile_table} and {folder.profile_trace} (open in ui.perfetto.dev)"
        )


def _report(outcome: Outcome, options: Options, *, as_json: bool) -> None:
    frame = load_frame(outcome.folder)
    # A grid whose store is behind gets these numbers with `alpkit sync` and `alpkit analyze`.
    if outcome.parent_run_id and outcome.unsent is None:
        with suppress(TrackingError):
            log_summary(
                outcome.parent_run_id, overview_rows(frame), tracking_uri=options.tracking_uri
            )
    profiles = _profiles(outcome, options)
    if as_json:
        results = tables.result_rows(outcome.folder, outcome.records)
        print_json(
            {
                "grid": outcome.folder.name,
                "folder": str(outcome.folder),
                "parent_run_id": outcome.parent_run_id,
                "tracking_uri": outcome.tracking_uri,
                "unsent": None if outcome.unsent is None else str(outcome.unsent),
                "skipped": list(outcome.skipped),
                "cells": tables.state_rows(outcome.records),
                "arms": results,
                "profiles": [str(folder.profile) for folder in profiles],
            }
        )
    else:
        print_frame(frame)
        _print_profiles(profiles)
    for record in outcome.failed:
        log = RunFolder(outcome.folder / record.cell_id).log
        first = (record.error or "").partition("\n")[0]
        note(f"{record.state}: {record.cell_id} {record.arm} seed={record.seed}: {first}")
        note(f"  log: {log}")
    if outcome.failed:
        note("run the same command again to resume what has not finished")
    if outcome.unsent is not None:
        note(f"warning: the store lacks some of what is in {outcome.folder}: {outcome.unsent}")
        note(f"send it when the store answers: alpkit sync {outcome.folder.name}")
    manifest = read_manifest(outcome.folder)
    note(f"next: alpkit analyze {outcome.parent_run_id[:8] or outcome.folder.name}")
    note(f"      writes {report_page(manifest.grid, manifest.grid_id)}")
    note(f"      {ui_command(outcome.tracking_uri)}")
    if manifest.experiment_id:
        note(f"      then open {charts_link(manifest.experiment_id)}")
