"""Grids on disk without a run: manifests and states only."""

from pathlib import Path

from alpkit.runs.folder import grid_folder
from alpkit.runs.states import CellRecord, Manifest, ManifestCell, write_cell, write_grid


def make_grid(root: Path, name, launched, *, parent, cells=(("c0", "r0"),), retired=()) -> Path:
    """`cells`: pairs of cell id and run id."""
    folder = grid_folder(root, name)
    records = [CellRecord(c, "grpo", i, name, run_id=r) for i, (c, r) in enumerate(cells)]
    for record in records:
        write_cell(folder / record.cell_id, record)
    manifest = Manifest(
        grid=name,
        parent_run_id=parent,
        launched=launched,
        cells=tuple(ManifestCell(c, "grpo", i) for i, (c, _) in enumerate(cells)),
    )
    write_grid(folder, manifest, records, retired)
    return folder
