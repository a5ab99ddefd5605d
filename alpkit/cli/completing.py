"""Shell completion: names that may stand for RUN_ID, read from the manifests here and nowhere else."""

from collections.abc import Iterator
from pathlib import Path


def run_ids(incomplete: str) -> list[tuple[str, str]]:
    """Complete a RUN_ID: `latest` and grids; once something is typed, cells and MLflow run ids too."""
    return [(text, told) for text, told in _names(incomplete) if text.startswith(incomplete)]


def arms(incomplete: str) -> list[tuple[str, str]]:
    """Complete what `compare` and `diff` take: a RUN_ID, or `GRID:ARM`. Bash breaks words at a colon: no arms there."""
    from alpkit.runs.find import list_grids

    name, colon, _ = incomplete.partition(":")
    if not colon:
        return run_ids(incomplete)
    cells = [cell for grid in list_grids(Path(".")) if grid.name == name for cell in grid.cells]
    found = dict.fromkeys(f"{name}:{cell.arm}" for cell in cells)
    return [(text, "") for text in found if text.startswith(incomplete)]


def presets(incomplete: str) -> list[str]:
    """Complete the name of a method."""
    from alpkit.config.presets import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


def example_names(incomplete: str) -> list[str]:
    """Complete the name of a shipped experiment."""
    from alpkit.config.shipped import ALL, examples

    known = [ALL, *(each.name for each in examples())]
    return [name for name in known if name.startswith(incomplete)]


def _names(incomplete: str) -> Iterator[tuple[str, str]]:
    from alpkit.runs.find import list_grids

    grids = list_grids(Path("."))
    if grids:
        yield "latest", f"the newest: {grids[0].name}"
    for grid in grids:
        yield grid.name, f"{len(grid.cells)} cells"
    # All cells of all grids would bury the grids.
    for grid in grids if incomplete else ():
        yield grid.parent_run_id, f"MLflow run of {grid.name}"
        for cell in grid.cells:
            told = f"{grid.name} {cell.arm} seed={cell.seed}, {cell.state}"
            yield cell.cell_id, told
            yield cell.run_id, f"MLflow run of {told}"
