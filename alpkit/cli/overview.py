"""The table that `run`, `analyze` and `compare` end with: a row per arm, in the arms' colours.

The report's first screen has the same numbers (`alpkit.analysis.tables.overview`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from alpkit.cli.output import note, out

if TYPE_CHECKING:
    from alpkit.analysis.frames import GridFrame


def print_overview(rows: Sequence[Mapping[str, object]], colours: Mapping[str, str]) -> None:
    """Print rows of text; `colours`: arm -> hex colour, shown where there is a terminal."""
    columns = list(rows[0]) if rows else ["arm"]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column == "arm", justify=_side(column))
    for row in rows:
        arm = str(row["arm"])
        cells = (str(row[column]) for column in columns[1:])
        table.add_row(Text(arm, style=colours.get(arm, "")), *cells)
    out().print(table)


def print_grid(folder: Path) -> None:
    """Read a grid's folder and print what it came to."""
    from alpkit.analysis.frames import load  # heavy: pandas

    print_frame(load(str(folder), strict=False))


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


def _side(column: str) -> Literal["left", "right"]:
    return "left" if column == "arm" else "right"
