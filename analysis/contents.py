"""What the report says: its sections, its sentences, and the JSON summary of the same numbers."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pandas as pd

from analysis import style
from analysis.cost import cost_table
from analysis.findings import Finding, findings, findings_table
from analysis.frames import GridFrame
from analysis.main_result import main_table
from analysis.page import Answer, Answers, Block, Bullets, Page, Picture, Section, Text
from analysis.pairs import REFERENCES, Pair, pairs
from analysis.plain import plain
from analysis.plans import PLANS, Place, Plan
from analysis.receipt import inactive, receipt_table, swallowed
from analysis.scores import SCORES
from analysis.seeds import MIN_SEEDS, Verdict, over_seeds, verdicts
from analysis.spikes import IDENTITY, SpikeLog, spike_log, spikes_table
from analysis.subsets import subset_table
from analysis.table import Table, first_line, records
from analysis.tables import (
    cells_table,
    differences_table,
    divergence_table,
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
        """CSV, Markdown and LaTeX of a table."""
        table.data.to_csv(self.folder / f"{table.name}.csv", index=False)
        text = f"# {table.title}\n\n{table.caption}\n\n{table.markdown()}"
        (self.folder / f"{table.name}.md").write_text(text, encoding="utf-8")
        (self.folder / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")
        return table

    def draw(self, plan: Plan, frame: GridFrame) -> Block:
        """PNG, SVG and CSV of a figure; words instead where there is nothing to draw."""
        data = plan.data(frame)
        if data.empty:
            return Text(f"{plan.title}: not drawn, {plan.absent}")
        data.to_csv(self.folder / f"{plan.name}.csv", index=False)
        memory = io.BytesIO()
        with style.context():
            figure = plan.sheet(data, style.looks(frame.cells))
            # Once, and not at every save: finding the layout costs as much as drawing.
            figure.get_layout_engine().execute(figure)
            # A figure with any engine is drawn twice per save, and a save brings the style's back.
            with matplotlib.rc_context({"figure.constrained_layout.use": False}):
                figure.set_layout_engine(None)
                figure.savefig(memory, format="png")
                # Without a date the same data gives the same file.
                figure.savefig(self.folder / f"{plan.name}.svg", metadata={"Date": None})
        (self.folder / f"{plan.name}.png").write_bytes(memory.getvalue())
        alt = plan.alt(frame, data)
        return Picture(plan.name, plan.title, alt, plan.caption, memory.getvalue())


class Composed(NamedTuple):
    """The page and its numbers."""

    page: Page
    summary: dict[str, Any]


@dataclass(frozen=True)
class Results:
    """What the sections and the summary are written from, computed once."""

    pairs: Sequence[Pair]
    verdicts: Sequence[Verdict]
    findings: Sequence[Finding]
    tails: pd.DataFrame
    spikes: SpikeLog
    warnings: Sequence[str]


def compose(frame: GridFrame, draft: Draft, tracking_uri: str | None) -> Composed:
    """Compute everything, write tables and figures through `draft`, and return page and summary."""
    results = _results(frame)

    def drawn(place: Place) -> list[Block]:
        return [draft.draw(plan, frame) for plan in PLANS if plan.section == place]

    def added(*tables: Table) -> list[Block]:
        return [draft.add(table) for table in tables]

    found, warnings = results.verdicts, results.warnings
    ratio = (
        divergence_table(frame),
        spread_table(frame),
        tails_table(results.tails, results.spikes.rates),
    )
    receipt: list[Block] = [Bullets(warnings, warning=True)] if warnings else []
    tables = (main_table(frame, results.pairs, found), results_table(frame))
    spikes = spikes_table(results.spikes)
    sections = [
        Section("What can be said", _finding_blocks(frame, results, draft)),
        Section("Results", [*added(*tables), *drawn("Results")]),
        Section("The ratio", [*added(*ratio), *drawn("The ratio")]),
        Section(
            "Spikes", added(spikes) if len(spikes.data) else [Text(_no_spikes(results.spikes))]
        ),
        Section(
            "Layers and sites", [*_ablations(frame, results, draft), *drawn("Layers and sites")]
        ),
        Section("Noise", drawn("Noise")),
        Section("Corrections", [*receipt, *added(receipt_table(frame)), *drawn("Corrections")]),
        Section("Cost", added(cost_table(frame))),
        Section("All cells", drawn("All cells")),
        Section("Cells and gaps", _cell_blocks(frame, results, draft)),
    ]
    facts, filled = _facts(frame, tracking_uri), [s for s in sections if s.blocks]
    page = Page(_title(frame), frame.grid.question, facts, filled)
    return Composed(page, _summary(frame, results))


def _results(frame: GridFrame) -> Results:
    compared = pairs(frame)
    # An arm may be compared with one and the same control for two reasons: that is one test.
    found = verdicts(frame.cells, dict.fromkeys((p.arm, p.control) for p in compared))
    tails, spikes = tail_frame(frame), spike_log(frame)
    warnings = [str(idle) for idle in (*inactive(frame), *swallowed(frame))]
    answers = findings(frame, compared, found, tails, spikes)
    return Results(compared, found, answers, tails, spikes, warnings)


def _title(frame: GridFrame) -> str:
    if not frame.only_cell or frame.cells.empty:
        return frame.grid.name
    cell = frame.cells.iloc[0]
    return f"{frame.grid.name}: {cell['arm']}, seed {cell['seed']}"


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


def _finding_blocks(frame: GridFrame, results: Results, draft: Draft) -> list[Block]:
    blocks: list[Block] = [Text(_opening(frame, results.verdicts), strong=True)]
    if results.findings:
        blocks.append(draft.add(findings_table(results.findings)))
    blocks += [_answers(f) for f in results.findings if f.kind in ("noise", "method")]
    compared = {arm for f in results.findings for arm in (f.arm, f.control)}
    lonely = [arm for arm in frame.arms if arm not in compared]
    notes = list(frame.grid.notes)
    if lonely and not frame.only_cell:
        notes.insert(0, f"No control in this grid, so nothing is said about {', '.join(lonely)}.")
    if notes:
        blocks.append(Bullets(notes))
    table = draft.add(differences_table(results.verdicts))
    return [*blocks, table] if len(table.data) else blocks


def _answers(finding: Finding) -> Answers:
    note = f"They differ in {', '.join(finding.differs)}." if finding.differs else ""
    items = [Answer(claim.topic, claim.state, claim.words) for claim in finding.claims]
    return Answers(f"{finding.arm} against {finding.control}", note, items, finding.limits)


def _ablations(frame: GridFrame, results: Results, draft: Draft) -> list[Block]:
    blocks: list[Block] = []
    for kind in REFERENCES:
        table = subset_table(frame, kind, results.verdicts)
        if len(table.data):
            blocks.append(draft.add(table))
    return blocks + [_answers(f) for f in results.findings if f.kind in REFERENCES]


def _no_spikes(log: SpikeLog) -> str:
    if not log.rates:
        return "No run is long enough for the spike detector, which needs 16 steps of history."
    steps = sum(n for _, n in log.rates.values())
    return f"No spike in {steps} judged steps of the finished cells."


def _opening(frame: GridFrame, found: Sequence[Verdict]) -> str:
    if frame.finished.empty:
        return "No cell has finished, so there is nothing to compare yet."
    if frame.only_cell:
        return f"This is one cell; `alpkit analyze {frame.grid.name}` compares it with the others."
    if not found:
        return "No verdict: no arm of this grid shares a finished seed with a control."
    tested = [v for v in found if v.tested]
    if not tested:
        most = int(frame.finished.groupby("arm").size().max())
        return (
            f"No verdict: a verdict needs an arm and its control with at least {MIN_SEEDS} shared "
            f"finished seeds, and the most seeds of any arm here is {most}. "
            "Differences in the tables below may be seed noise."
        )
    beyond = sum(v.beyond_noise for v in tested)
    return (
        f"{beyond} of {len(tested)} comparisons with a control are beyond seed noise "
        "(paired t over seeds, Holm-adjusted p < 0.05); the rest are not told apart from it."
    )


def _cell_blocks(frame: GridFrame, results: Results, draft: Draft) -> list[Block]:
    rows = frame.cells[frame.cells["state"] != "finished"]
    gaps = [
        f"{row['arm']}, seed {row['seed']}: {row['state']} after {row['steps_done']} step(s)"
        + (f" ({first_line(row['error'])})" if row["error"].strip() else "")
        + "; not in any mean."
        for row in records(rows)
    ]
    gaps += [str(item) for item in (*frame.missing, *frame.unread, *results.spikes.missing)]
    notes: Block = (
        Bullets(gaps, warning=True) if gaps else Text("Every cell finished, every file was read.")
    )
    return [notes, draft.add(cells_table(frame))]


def _summary(frame: GridFrame, results: Results) -> dict[str, Any]:
    arms, tails = {}, results.tails
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
    tested = [v for v in results.verdicts if v.tested]
    missing = (*frame.missing, *frame.unread, *results.spikes.missing)
    summary = {
        "grid": frame.grid.name,
        "grid_id": frame.grid.grid_id,
        "question": frame.grid.question,
        "cells": {str(k): int(v) for k, v in frame.cells["state"].value_counts().items()},
        "arms": arms,
        "findings": [
            {**f._asdict(), "claims": [claim._asdict() for claim in f.claims]}
            for f in results.findings
        ],
        "verdicts": [
            {**v._asdict(), "beyond_noise": v.beyond_noise, "sentence": v.sentence} for v in tested
        ],
        "verdict_given": bool(tested),
        "opening": _opening(frame, results.verdicts),
        "spikes": results.spikes.rows[IDENTITY].to_dict("records"),
        "warnings": list(results.warnings),
        "missing": [str(item) for item in missing],
        "notes": list(frame.grid.notes),
    }
    return {key: plain(value) for key, value in summary.items()}
