"""`alpkit clean`: list what grids keep and nobody needs, and delete it when told."""

from pathlib import Path

from alpkit.cli.layout import plain
from alpkit.cli.output import note, print_json, print_table
from alpkit.runs.find import list_grids, resolve
from alpkit.runs.leftovers import Leftover, leftovers, remove


def clean(run_id: str | None, *, delete: bool, as_json: bool) -> None:
    """List the leftovers of one grid, or of all here; with `delete` remove what was listed."""
    folders = (
        [grid.folder for grid in list_grids(Path("."))]
        if run_id is None
        else [resolve(run_id).folder]
    )
    found = {folder: leftovers(folder) for folder in folders}
    if delete:
        for folder, each in found.items():
            if each:
                remove(folder, each)
    everything = [(folder, each) for folder, listed in found.items() for each in listed]
    if as_json:
        print_json({"deleted": delete, "found": [_row(f, each) for f, each in everything]})
        return
    total = sum(each.bytes for _, each in everything)
    if everything:
        rows = [
            [folder.name, each.kind, each.cell_id, human(each.bytes), each.path.name]
            for folder, each in everything
        ]
        print_table(plain(["grid", "what", "cell", "size", "name"], rows))
    if not everything:
        note("nothing to clean")
    elif delete:
        note(f"deleted {len(everything)} of these, {human(total)}")
    else:
        note(f"{human(total)} in {len(everything)} places; nothing was deleted: add --delete")
    if any(each.kind == "retired cell" for _, each in everything):
        note("runs of retired cells stay in the MLflow store; its own `mlflow gc` removes runs")


def human(count: int) -> str:
    """Write a number of bytes: `512 B`, `1.4 MB`, `3 GB`."""
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"


def _row(folder: Path, each: Leftover) -> dict[str, object]:
    return {**each._asdict(), "path": str(each.path), "grid": folder.name}
