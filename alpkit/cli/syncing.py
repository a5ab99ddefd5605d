"""`alpkit sync`: the store brought up to what a grid's folder holds."""

from alpkit.cli.output import note, print_json
from alpkit.launch import sync_grid
from alpkit.runs.find import resolve


def sync(run_id: str, tracking_uri: str | None, *, as_json: bool) -> None:
    """Send what the store lacks of the grid that `run_id` names, or that its cell belongs to."""
    folder = resolve(run_id).folder
    synced = sync_grid(folder, tracking_uri)
    for text in synced.unread:
        note(f"not sent: {text}")
    if as_json:
        print_json({"folder": str(folder), **synced._asdict()})
        return
    print(f"{synced.cells} cells, {synced.steps} steps sent to {synced.tracking_uri}")
    note(f"parent run {synced.parent_run_id}")
