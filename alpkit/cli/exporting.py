"""`alpkit export`: a cell's policy as a model folder."""

from pathlib import Path

from alpkit.cli.output import note, print_json


def export(run_id: str, folder: Path, *, as_json: bool) -> None:
    """Write the folder, and say how to load it."""
    from alpkit.trainer.export import ORIGIN, export  # heavy: torch

    found = export(run_id, folder)
    if as_json:
        print_json({**found._asdict(), "folder": str(found.folder)})
        return
    note(
        f"wrote {found.folder}: {found.model} as cell {found.cell_id} left it at step {found.step}"
    )
    note(f"its origin and prompt are in {found.folder / ORIGIN}")
    note(f"next: alpkit eval {found.folder}")
    note(
        f'      AutoModelForCausalLM.from_pretrained("{found.folder}"), or vLLM: LLM(model="{found.folder}")'
    )
