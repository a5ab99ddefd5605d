"""The table that `run`, `analyze` and `compare` end with: a row per arm, in the arms' colours.

The report's first screen has the same numbers (`alpkit.analysis.tables.overview`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alpkit.cli.layout import Column, TextTable
from alpkit.cli.output import note, print_table

if TYPE_CHECKING:
    from alpkit.analysis.frames import GridFrame


def print_overview(rows: Sequence[Mapping[str, object]], colours: Mapping[str, str]) -> None:
    """Print rows of text; `colours`: arm -> hex colour, shown where there is a terminal."""
    titles = list(rows[0]) if rows else ["arm"]
    columns = [Column(title, right=title != "arm") for title in titles]
    print_table(
        TextTable(columns, [[str(value) for value in row.values()] for row in rows], styles=colours)
    )


def load_frame(folder: Path) -> "GridFrame":
    """Read a grid's folder, whatever state it is in."""
    from alpkit.analysis.frames import load  # heavy: pandas

    return load(str(folder), strict=False)


def overview_rows(frame: "GridFrame") -> list[dict[str, object]]:
    """Give the numbers of the table that `print_frame` prints, JSON-ready."""
    from alpkit.analysis.tables.overview import overview, overview_table
    from alpkit.analysis.text import json_ready, row_dicts

    rows = row_dicts(overview_table(overview(frame)).data)
    return [{name: json_ready(value) for name, value in row.items()} for row in rows]


def print_frame(frame: "GridFrame") -> None:
    """Print what a grid came to: arms that are the same run first, then its table."""
    from alpkit.analysis.figures.style import looks  # heavy: matplotlib
    from alpkit.analysis.pairs import pairs
    from alpkit.analysis.tables.overview import overview, overview_table
    from alpkit.analysis.tables.same_runs import in_short, rare_bounds, same_runs
    from alpkit.analysis.text import row_dicts

    same = same_runs(frame, pairs(frame))
    for words in in_short([*same, *rare_bounds(frame, but=same)]):
        note(f"warning: {words}")
    found = overview(frame)
    table = overview_table(found)
    colours = {arm: look.colour for arm, look in looks(frame.cells).items()}
    print_overview(row_dicts(table.shown), colours)
    note(table.caption.partition(" CSV:")[0])
    if len(found.rows) < found.arms:
        note(f"{len(found.rows)} of {found.arms} arms: the tested and the best; the report has all")
