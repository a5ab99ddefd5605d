"""Commands that only look: `plan`, `show`, `methods`, `ui`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from alpkit.cli import tables
from alpkit.cli.output import charts_link, note, print_json, print_table
from alpkit.errors import TrackingError
from alpkit.runs.find import list_grids, resolve
from alpkit.runs.lock import is_live
from alpkit.runs.states import killed_if_not_live, read_grid
from alpkit.tracking import has_secret, masked, resolve_uri


def plan(file: Path, sets: Sequence[str], *, full: bool, as_json: bool, many: bool = False) -> None:
    from alpkit.config import dump_yaml, expand, load_ablation
    from alpkit.launch import adopt, states

    grid = adopt(expand(load_ablation(file, sets), many=many), Path("."))
    rows = tables.cell_rows(grid, states(grid))
    if as_json:
        configs = [cell.config.model_dump(mode="json") for cell in grid.cells]
        whole = [{**row, "config": config} for row, config in zip(rows, configs, strict=True)]
        print_json({**grid.manifest(), "cells": whole if full else rows})
        return
    if full:
        for cell in grid.cells:
            print(f"# {cell.cell_id} {cell.arm} seed={cell.seed}\n{dump_yaml(cell.config)}---")
    else:
        print_table(tables.plan_table(rows))
    for perturbed, control in grid.controls.items():
        note(f"control: {control} is {perturbed} without its noise")
    for text in grid.notes:
        note(f"note: {text}")
    for text in grid.warnings:
        note(f"warning: {text}")
    finished = sum(row["state"] == "finished" for row in rows)
    note(f"{len(rows)} cells, {finished} finished: alpkit run {file}")


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
    if not grids:
        note(base)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    command = [sys.executable, "-m", "mlflow", "ui"]
    if has_secret(uri):
        # Every user of the machine sees a command line.
        os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    else:
        command += ["--backend-store-uri", uri]
    sys.stderr.flush()
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])
