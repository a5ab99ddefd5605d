"""Commands that only look: `plan`, `show`, `methods`, `ui`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from alpkit.cli import tables
from alpkit.cli.output import charts_link, note, print_json, print_table
from alpkit.errors import ConfigError, TrackingError
from alpkit.runs.find import list_grids, resolve
from alpkit.runs.lock import is_live
from alpkit.runs.states import killed_if_not_live, read_grid
from alpkit.tracking import resolve_uri


def plan(file: Path, sets: Sequence[str], *, full: bool, as_json: bool) -> None:
    from alpkit.config import dump_yaml, expand, load_ablation
    from alpkit.launch import states

    grid = expand(load_ablation(file, sets))
    rows = tables.cell_rows(grid, states(grid))
    if as_json:
        configs = [cell.config.model_dump(mode="json") for cell in grid.cells]
        if full:
            rows = [{**row, "config": config} for row, config in zip(rows, configs, strict=True)]
        print_json({**grid.manifest(), "cells": rows})
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
    from difflib import get_close_matches

    from alpkit.config import PRESETS

    if name is None:
        rows = tables.method_rows()
        if as_json:
            print_json(rows)
        else:
            print_table(tables.method_table(rows))
            note("alpkit methods NAME shows one in full")
        return
    if name not in PRESETS:
        close = get_close_matches(name, PRESETS, n=1)
        raise ConfigError(
            f"{name!r} is not a method",
            why=f"methods: {', '.join(PRESETS)}",
            fix=f"did you mean {close[0]!r}?" if close else "use one of them",
        )
    card = tables.method_card(name)
    if as_json:
        print_json({"name": name, **card})
        return
    import yaml

    axes = {key: card[key] for key in ("objective", "perturbation") if card[key] is not None}
    print(f"{name}\n\n  {card['formula']}\n\nsource: {card['source']}\navoid: {card['avoid']}\n")
    print(yaml.safe_dump(axes, sort_keys=False, default_flow_style=None), end="")


def ui(tracking_uri: str | None, port: int) -> None:
    """Replace this process by MLflow's server."""
    uri = resolve_uri(tracking_uri)
    if uri.startswith(("http://", "https://")):
        raise TrackingError(
            "the store is a server already",
            where=uri,
            why="`mlflow ui` serves local stores",
            fix=f"open {uri} in a browser",
        )
    database = uri.removeprefix("sqlite:///")
    if database != uri and not Path(database).is_file():
        raise TrackingError(
            "there is no tracking store here",
            where=uri,
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
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    sys.stderr.flush()
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])
