"""Write a grid's report into a folder of its own (`analyze`). The CLI logs it to MLflow.

The folder is built beside its final place and swapped in whole, so a reader never sees half a report
and a second analysis replaces the first. What the report says: `alpkit.analysis.report.compose`.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from alpkit.analysis.frames import GridFrame, load
from alpkit.analysis.report.compose import compose
from alpkit.analysis.report.page import Block, Fold, Picture
from alpkit.analysis.report.rendering import html, markdown
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.overview import overview, overview_table
from alpkit.analysis.text import json_ready, row_dicts, without_html
from alpkit.runs.csv import write_csv
from alpkit.runs.folder import REPORTS
from alpkit.runs.swap import swapped_folder


@dataclass(frozen=True)
class Report:
    """A written report: its folder, its numbers (JSON-ready), its files, and the grid or cell that it is of."""

    folder: Path
    summary: dict[str, object]
    files: list[str]
    frame: GridFrame

    @property
    def overview(self) -> list[dict[str, object]]:
        """The first screen's table in numbers: a row per arm, JSON-ready."""
        rows = overview_table(overview(self.frame)).data
        return [{name: json_ready(v) for name, v in row.items()} for row in row_dicts(rows)]


def analyze(
    run_id: str = "latest", *, root: Path | str = Path("."), tracking_uri: str | None = None
) -> Report:
    """Write `reports/<id>/` under `root` for a grid or one of its cells, and return it.

    Works from the run folder alone; the store at `tracking_uri` (default: the one the grid was logged to)
    is printed, and read where the folder is gone. Unreadable files and unfinished cells are listed in
    the report, not raised; only a grid that cannot be found is an error.
    """
    frame = load(run_id, root=root, strict=False, tracking_uri=tracking_uri)
    tracking_uri = tracking_uri or frame.grid.tracking_uri or None
    target = Path(root) / REPORTS / report_id(frame)
    with swapped_folder(target) as work:
        summary = _write(frame, work, tracking_uri)
    return Report(target, summary, sorted(path.name for path in target.iterdir()), frame)


def report_id(frame: GridFrame) -> str:
    """Name the report: grid name and the first eight digits of its id; a single cell's id follows if it is one."""
    parts = [frame.grid.name, frame.grid.grid_id[:8]]
    if frame.only_cell:
        parts.append(frame.only_cell)
    return "-".join(part.replace(os.sep, "_") for part in parts if part)


def _write(frame: GridFrame, folder: Path, tracking_uri: str | None) -> dict[str, object]:
    page, summary, unshown = compose(frame, tracking_uri)
    written = set()
    blocks = [block for section in page.sections for block in section.blocks]
    # Whole tables first: a fold may show a part of one, under its name.
    for block in (*unshown, *_unfolded([page.first.hero, *blocks])):
        match block:
            case Table() if block.name not in written:
                _write_table(block, folder)
                written.add(block.name)
            case Picture():
                _write_picture(block, folder)
    (folder / "report.md").write_text(markdown(page), encoding="utf-8")
    (folder / "report.html").write_text(html(page), encoding="utf-8")
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    return summary


def _unfolded(blocks: Iterable[Block | None]) -> Iterator[Block]:
    """Yield the blocks, those inside of folds among them."""
    for block in blocks:
        if isinstance(block, Fold):
            yield from _unfolded(block.blocks)
        elif block is not None:
            yield block


def _write_table(table: Table, folder: Path) -> None:
    write_csv(table.data, folder / f"{table.name}.csv")
    text = f"# {table.title}\n\n{table.caption}\n\n{table.markdown()}"
    (folder / f"{table.name}.md").write_text(without_html(text), encoding="utf-8")
    (folder / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")


def _write_picture(picture: Picture, folder: Path) -> None:
    write_csv(picture.data, folder / f"{picture.name}.csv")
    for ending, content in picture.files.items():
        (folder / f"{picture.name}{ending}").write_bytes(content)
