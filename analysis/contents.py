"""What the report says: its sections, its sentences, and the JSON summary of the same numbers."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis import style
from analysis.frames import GridFrame
from analysis.page import Block, Bullets, Page, Picture, Section, Text
from analysis.plans import PLANS, Place, Plan
from analysis.receipt import inactive, receipt_table, swallowed
from analysis.scores import SCORES
from analysis.seeds import ENDPOINTS, MIN_SEEDS, Verdict, over_seeds, paired, verdicts
from analysis.tables import (
    Table,
    cells_table,
    differences_table,
    divergence_table,
    first_line,
    records,
    results_table,
    spread_table,
    tails_table,
)
from analysis.tails import tail_frame


@dataclass(frozen=True)
class Draft:
    """Writes every table and figure of a report into its folder, in every format."""

    folder: Path

    def add(self, table: Table) -> Table:
        """CSV and Markdown of a table."""
        table.data.to_csv(self.folder / f"{table.name}.csv", index=False)
        text = f"# {table.title}\n\n{table.caption}\n\n{table.markdown()}"
        (self.folder / f"{table.name}.md").write_text(text, encoding="utf-8")
        return table

    def draw(self, plan: Plan, frame: GridFrame) -> Block:
        """PNG, SVG and CSV of a figure; words instead where there is nothing to draw."""
        data = plan.data(frame)
        if data.empty:
            return Text(f"{plan.title}: nothing to draw.")
        data.to_csv(self.folder / f"{plan.name}.csv", index=False)
        memory = io.BytesIO()
        with style.context():
            figure = plan.sheet(data, style.looks(frame.cells))
            figure.savefig(memory, format="png")
            # The layout is found; finding it again for the SVG costs as much as drawing.
            figure.set_layout_engine("none")
            # Without a date the same data gives the same file.
            figure.savefig(self.folder / f"{plan.name}.svg", metadata={"Date": None})
        (self.folder / f"{plan.name}.png").write_bytes(memory.getvalue())
        alt = plan.alt(frame, data)
        return Picture(plan.name, plan.title, alt, plan.caption, memory.getvalue())


class Composed(NamedTuple):
    """The page and its numbers."""

    page: Page
    summary: dict[str, Any]


def compose(frame: GridFrame, draft: Draft, tracking_uri: str | None) -> Composed:
    """Compute everything, write tables and figures through `draft`, and return page and summary."""
    tails = tail_frame(frame)
    found = verdicts(frame.cells, frame.grid.controls)
    warnings = inactive(frame) + swallowed(frame)

    def drawn(place: Place) -> list[Block]:
        return [draft.draw(plan, frame) for plan in PLANS if plan.section == place]

    ratio: list[Block] = [
        draft.add(table)
        for table in (divergence_table(frame), spread_table(frame), tails_table(tails))
    ]
    receipt: list[Block] = [Bullets(warnings, warning=True)] if warnings else []
    sections = [
        Section("What can be said", _verdict_blocks(frame, found, draft)),
        Section("Results", [draft.add(results_table(frame)), *drawn("Results")]),
        Section("The ratio", [*ratio, *drawn("The ratio")]),
        Section("Corrections", [*receipt, draft.add(receipt_table(frame))]),
        Section("Cells and gaps", _cell_blocks(frame, draft)),
    ]
    grid = frame.grid
    page = Page(grid.name, grid.question, _facts(frame, tracking_uri), sections)
    return Composed(page, _summary(frame, tails, found, warnings))


def _facts(frame: GridFrame, tracking_uri: str | None) -> list[tuple[str, str]]:
    cells, grid = frame.cells, frame.grid
    states = ", ".join(f"{n} {state}" for state, n in cells["state"].value_counts().items())
    facts = [
        ("Cells", f"{len(cells)} ({states})" if len(cells) else "none"),
        ("Arms", ", ".join(frame.arms)),
        ("Model and task", _common(cells, "model", "task")),
        ("Sampler", _common(cells, "engine", "precision")),
        ("Updates per rollout", _common(cells, "updates_per_rollout")),
        ("Grid id", grid.grid_id),
        ("Started", grid.created),
        ("MLflow parent run", grid.parent_run_id),
        ("Tracking store", tracking_uri or ""),
    ]
    return [(name, value) for name, value in facts if value]


def _common(cells: pd.DataFrame, *columns: str) -> str:
    """The values of these columns, every one that occurs."""
    seen = cells[list(columns)].dropna(how="all").drop_duplicates()
    rows = [
        ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in r) for r in seen.to_numpy()
    ]
    return " | ".join(rows)


def _verdict_blocks(frame: GridFrame, found: Sequence[Verdict], draft: Draft) -> list[Block]:
    controls = frame.grid.controls
    table = draft.add(differences_table(frame, found))
    blocks: list[Block] = [Text(_opening(frame, found), strong=True)]
    gaps = [verdict.sentence for verdict in found if verdict.beyond_noise]
    labels = {endpoint.column: endpoint.label for endpoint in ENDPOINTS}
    for arm, control in controls.items():
        rest = [v for v in found if v.arm == arm and not v.beyond_noise]
        if rest:
            names = ", ".join(labels[v.endpoint] for v in rest)
            gaps.append(f"{arm} − {control}, not told apart from seed noise: {names}.")
    for arm, control in controls.items():
        shared = len(paired(frame.cells, arm, control, ENDPOINTS[0]))
        if arm in frame.arms and shared < MIN_SEEDS:
            gaps.append(f"{arm} against {control}: {shared} shared finished seed(s), no verdict.")
    alone = [arm for arm in frame.arms if arm not in controls]
    if alone:
        gaps.append(f"No control in this grid, so no verdict: {', '.join(alone)}.")
    blocks.append(Bullets([*gaps, *frame.grid.notes]))
    return [*blocks, table] if len(table.data) else blocks


def _opening(frame: GridFrame, found: Sequence[Verdict]) -> str:
    if frame.finished.empty:
        return "No cell has finished, so there is nothing to compare yet."
    if not found:
        most = int(frame.finished.groupby("arm").size().max())
        return (
            f"No verdict: a verdict needs an arm and its control with at least {MIN_SEEDS} shared "
            f"finished seeds, and the most seeds of any arm here is {most}. "
            "Differences in the tables below may be seed noise."
        )
    beyond = sum(verdict.beyond_noise for verdict in found)
    return (
        f"{beyond} of {len(found)} comparisons with a control are beyond seed noise "
        "(paired t over seeds, Holm-adjusted p < 0.05); the rest are not told apart from it."
    )


def _cell_blocks(frame: GridFrame, draft: Draft) -> list[Block]:
    rows = frame.cells[frame.cells["state"] != "finished"]
    gaps = [
        f"{row['arm']}, seed {row['seed']}: {row['state']} after {row['steps_done']} step(s)"
        + (f" ({first_line(row['error'])})" if row["error"].strip() else "")
        + "; not in any mean."
        for row in records(rows)
    ]
    gaps += [str(item) for item in frame.missing]
    notes: Block = (
        Bullets(gaps, warning=True) if gaps else Text("Every cell finished, every file was read.")
    )
    return [notes, draft.add(cells_table(frame))]


def _summary(
    frame: GridFrame, tails: pd.DataFrame, found: Sequence[Verdict], warnings: Sequence[str]
) -> dict[str, Any]:
    arms = {}
    for arm in frame.arms:
        own = frame.finished[frame.finished["arm"] == arm]
        rows = tails[tails["arm"] == arm] if len(tails) else tails
        arms[arm] = {
            "n": len(own),
            "scores": {name: over_seeds(own[name])._asdict() for name in SCORES},
            "tails": {
                f"{row['level']}/{row['side']}": row.drop(["arm", "level", "side"]).to_dict()
                for _, row in rows.iterrows()
            },
        }
    summary = {
        "grid": frame.grid.name,
        "grid_id": frame.grid.grid_id,
        "question": frame.grid.question,
        "cells": {str(k): int(v) for k, v in frame.cells["state"].value_counts().items()},
        "arms": arms,
        "verdicts": [verdict._asdict() for verdict in found],
        "verdict_given": bool(found),
        "opening": _opening(frame, found),
        "warnings": list(warnings),
        "missing": [str(item) for item in frame.missing],
        "notes": list(frame.grid.notes),
    }
    return {key: _plain(value) for key, value in summary.items()}


def _plain(value: Any) -> Any:
    """JSON's types only: numpy scalars unwrapped, NaN and infinities as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
