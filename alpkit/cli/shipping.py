"""`alpkit examples`: the shipped experiments, listed or copied."""

from pathlib import Path

from alpkit.cli.layout import plain
from alpkit.cli.output import note, print_json, print_table
from alpkit.config.shipped import copy, examples


def list_examples(*, as_json: bool) -> None:
    """Print every shipped grid with its question."""
    found = examples()
    if as_json:
        print_json([{**each._asdict(), "path": str(each.path)} for each in found])
        return
    print_table(
        plain(["name", "question"], [[each.name, each.question] for each in found], "question")
    )
    note("alpkit examples NAME copies one into experiments/, alpkit examples all every one")


def copy_examples(names: list[str], to: Path, *, force: bool, as_json: bool) -> None:
    """Copy grids, and say what to type next."""
    written = copy(names, to, force=force)
    if as_json:
        print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        print(path)
    grids = [path for path in written if path.suffix == ".yaml"]
    note(f"next: alpkit plan {grids[0]}")
