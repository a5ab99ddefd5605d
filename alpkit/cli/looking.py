"""Commands that only look: `plan`, `show`, `methods`, `ui`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alpkit.cli import tables
from alpkit.cli.output import charts_link, note, print_json, print_table
from alpkit.errors import TrackingError
from alpkit.runs.find import list_grids, resolve
from alpkit.runs.folder import report_page
from alpkit.runs.lock import is_live
from alpkit.runs.states import killed_if_not_live, read_grid
from alpkit.tracking import has_secret, masked, report_path, resolve_uri

if TYPE_CHECKING:
    from alpkit.config import Grid
    from alpkit.diagnostics.noise_size import NoiseSize
    from alpkit.trainer.cost_probe import Cost


def plan(
    file: Path,
    sets: Sequence[str],
    *,
    full: bool,
    probe: bool,
    as_json: bool,
    many: bool = False,
) -> None:
    from alpkit.cli import fitting
    from alpkit.config import dump_yaml
    from alpkit.errors import together
    from alpkit.launch import adopt, load_grid, look, states
    from alpkit.launch.fitting import fits
    from alpkit.launch.fitting import rows as memory_rows

    grid = adopt(load_grid(file, sets, many=many), Path("."))
    seen = look(grid.cells)
    if seen.wrong:
        raise together(seen.wrong)
    rows = tables.cell_rows(grid, states(grid))
    memory = fits(grid.cells, grid.launch.jobs)
    sizes = _probe(grid) if probe else {}
    costs = _probe_costs(grid) if probe else {}
    if as_json:
        configs = [cell.config.model_dump(mode="json") for cell in grid.cells]
        whole = [{**row, "config": config} for row, config in zip(rows, configs, strict=True)]
        more: dict[str, object] = {
            "planned_tests": list(grid.planned_tests()),
            "memory": memory_rows(memory),
            "lacking": [str(error) for error in seen.lacking],
        }
        if probe:
            more["probe"] = [tables.noise_row(arm, size) for arm, size in sizes.items()]
            more["costs"] = [{"arm": arm, **cost._asdict()} for arm, cost in costs.items()]
        print_json({**grid.manifest(), **more, "cells": whole if full else rows})
        return
    if full:
        for cell in grid.cells:
            print(f"# {cell.cell_id} {cell.arm} seed={cell.seed}\n{dump_yaml(cell.config)}---")
    else:
        print_table(tables.plan_table(rows))
    if sizes:
        print_table(tables.noise_table(sizes))
    if costs:
        print_table(tables.cost_table(costs))
    for perturbed, control in grid.controls.items():
        note(f"control: {control} is {perturbed} without its noise")
    for text in grid.planned_tests():
        note(text)
    for text in grid.notes:
        note(f"note: {text}")
    for text in grid.warnings:
        note(f"warning: {text}")
    for arm, size in sizes.items():
        for text in size.cautions():
            note(f"caution: {arm!r}: {text}")
    for text in fitting.lines(memory):
        note(text)
    for error in seen.lacking:
        note(f"not ready here: {error}")
    finished = sum(row["state"] == "finished" for row in rows)
    note(f"{len(rows)} cells, {finished} finished: alpkit run {file}")


def _probe(grid: "Grid") -> "dict[str, NoiseSize]":
    """Refuse what a launch would refuse, then measure the noise of every perturbed arm, by its first cell."""
    from alpkit.launch.preflight import check_cells
    from alpkit.trainer.noise_probe import probe_noise

    check_cells(grid.cells)
    first = {cell.arm: cell for cell in reversed(grid.cells)}
    sizes = {arm: probe_noise(first[arm].config) for arm in grid.controls}
    return {arm: size for arm, size in sizes.items() if size is not None}


def _probe_costs(grid: "Grid") -> "dict[str, Cost]":
    """Measure what a cell of every arm costs, by one step of its first cell."""
    from alpkit.trainer.cost_probe import probe_cost

    first = {cell.arm: cell for cell in reversed(grid.cells)}
    return {arm: probe_cost(first[arm].config) for arm in grid.arms}


def show(run_id: str, *, as_json: bool) -> None:
    target = resolve(run_id)
    grid = read_grid(target.folder)
    records = killed_if_not_live(grid.cells, live=is_live(target.folder))
    if target.cell_id is not None:
        records = killed_if_not_live((*grid.cells, *grid.retired), live=is_live(target.folder))
        records = tuple(r for r in records if r.cell_id == target.cell_id)
    if as_json:
        print_json(
            {
                "grid": grid.name,
                "folder": str(grid.folder),
                "parent_run_id": grid.parent_run_id,
                "tracking_uri": grid.tracking_uri,
                "cells": tables.state_rows(records),
            }
        )
        return
    print_table(tables.state_table(records))
    if target.cell_id is not None and records[0].error:
        print(records[0].error)
    note(f"{grid.folder}  parent run {grid.parent_run_id}")


def methods(name: str | None, *, as_json: bool) -> None:
    from alpkit.config.cards import card, cards

    if name is not None:
        shown = card(name)
        if as_json:
            print_json(shown.data)
        else:
            print(shown.text, end="")
    elif as_json:
        print_json([each.data for each in cards()])
    else:
        print_table(tables.method_table(cards()))
        note("alpkit methods NAME shows one in full")


def ui(tracking_uri: str | None, port: int) -> None:
    """Replace this process by MLflow's server."""
    uri = resolve_uri(tracking_uri)
    if uri.startswith(("http://", "https://")):
        raise TrackingError(
            "the store is a server already",
            where=masked(uri),
            why="`mlflow ui` serves local stores",
            fix=f"open {masked(uri)} in a browser",
        )
    database = uri.removeprefix("sqlite:///")
    if database != uri and not Path(database).is_file():
        raise TrackingError(
            "there is no tracking store here",
            where=masked(uri),
            why=f"{database} does not exist in {Path.cwd()}",
            fix="change to the folder where `alpkit run` was started, or pass --tracking-uri",
        )
    base = f"http://127.0.0.1:{port}"
    grids = list_grids(Path("."))
    for grid in grids[:1]:
        note(f"charts of {grid.name}: {charts_link(grid.manifest.experiment_id, base)}")
        manifest = grid.manifest
        if report_page(manifest.grid, manifest.grid_id).is_file():
            path = report_path(manifest.experiment_id, manifest.parent_run_id)
            note(f"report of {grid.name}: {base}/{path}")
    if not grids:
        note(base)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Seven workers of 210 MB each, for scheduled GenAI jobs that nobody here schedules.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    command = [sys.executable, "-m", "mlflow", "ui"]
    if has_secret(uri):
        # Every user of the machine sees a command line.
        os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    else:
        command += ["--backend-store-uri", uri]
    sys.stderr.flush()
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])
