"""What the report says: its sections, in the order in which they are read."""

from typing import Any, NamedTuple

import pandas as pd

from alpkit.analysis.figures import FIGURES
from alpkit.analysis.figures.spec import Place
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.pairs import REFERENCES
from alpkit.analysis.report.page import Answer, Answers, Block, Bullets, Page, Section, Text
from alpkit.analysis.report.pictures import picture
from alpkit.analysis.report.results import Results, gather, opening, summary
from alpkit.analysis.seeds.scores import FINISHED
from alpkit.analysis.spike_frame import SpikeLog
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.cells import cells_table
from alpkit.analysis.tables.cost import cost_table
from alpkit.analysis.tables.differences import differences_table
from alpkit.analysis.tables.divergence import divergence_table
from alpkit.analysis.tables.findings import Finding, findings_table
from alpkit.analysis.tables.main import main_table
from alpkit.analysis.tables.receipt import receipt_table
from alpkit.analysis.tables.results import results_table
from alpkit.analysis.tables.spikes import spikes_table
from alpkit.analysis.tables.spread import spread_table
from alpkit.analysis.tables.steadiness import steadiness_table
from alpkit.analysis.tables.subsets import subset_table
from alpkit.analysis.tables.tails import tails_table
from alpkit.analysis.tables.tasks import tasks_table
from alpkit.analysis.text import first_line, row_dicts
from alpkit.tracking.address import masked


class Composed(NamedTuple):
    """The page, its numbers, and tables that have a file although the page has no room for them."""

    page: Page
    summary: dict[str, Any]
    unshown: tuple[Table, ...]


def compose(frame: GridFrame, tracking_uri: str | None) -> Composed:
    """Compute everything and order it into a page and its summary; nothing is written here."""
    results = gather(frame)
    differences = differences_table(results.verdicts)
    sections = [
        Section("What can be said", _findings(frame, results, differences)),
        Section("Results", _results(frame, results)),
        Section("The ratio", _ratio(frame, results)),
        Section("Spikes", _spikes(frame, results.spikes)),
        Section("Layers and sites", _ablations(frame, results)),
        Section("Noise", _drawn(frame, "Noise")),
        Section("Corrections", _corrections(frame, results)),
        Section("Cost", [cost_table(frame)]),
        Section("All cells", _drawn(frame, "All cells")),
        Section("Cells and gaps", _cells(frame, results)),
    ]
    filled = [section for section in sections if section.blocks]
    page = Page(_title(frame), frame.grid.question, _facts(frame, tracking_uri), filled)
    unshown = () if len(differences.data) else (differences,)
    return Composed(page, summary(frame, results), unshown)


def _drawn(frame: GridFrame, place: Place) -> list[Block]:
    return [picture(figure, frame) for figure in FIGURES if figure.section == place]


def _results(frame: GridFrame, results: Results) -> list[Block]:
    tasks = tasks_table(frame, results.pairs)
    return [
        main_table(frame, results.pairs, results.verdicts),
        *([tasks] if len(tasks.data) else []),
        results_table(frame),
        *_drawn(frame, "Results"),
    ]


def _ratio(frame: GridFrame, results: Results) -> list[Block]:
    return [
        divergence_table(frame),
        spread_table(frame),
        tails_table(results.tails, results.spikes.rates),
        *_drawn(frame, "The ratio"),
    ]


def _spikes(frame: GridFrame, log: SpikeLog) -> list[Block]:
    table = spikes_table(log)
    told: Block = table if len(table.data) else Text(_no_spikes(log))
    return [told, steadiness_table(frame)]


def _corrections(frame: GridFrame, results: Results) -> list[Block]:
    warnings: list[Block] = []
    if results.warnings:
        warnings = [Bullets(results.warnings, warning=True)]
    return [*warnings, receipt_table(frame), *_drawn(frame, "Corrections")]


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
        ("Tracking store", masked(tracking_uri or "")),
    ]
    return [(name, value) for name, value in facts if value]


def _common(cells: pd.DataFrame, *columns: str) -> str:
    """The values of these columns, every one that occurs."""
    seen = cells[list(columns)].dropna(how="all").drop_duplicates()
    rows = [
        ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in r) for r in seen.to_numpy()
    ]
    return " | ".join(rows)


def _findings(frame: GridFrame, results: Results, differences: Table) -> list[Block]:
    blocks: list[Block] = [Text(opening(frame, results.verdicts), strong=True)]
    if results.findings:
        blocks.append(findings_table(results.findings))
    blocks += [_answers(f) for f in results.findings if f.kind in ("noise", "method")]
    compared = {arm for f in results.findings for arm in (f.arm, f.control)}
    lonely = [arm for arm in frame.arms if arm not in compared]
    notes = list(frame.grid.notes)
    if lonely and not frame.only_cell:
        notes.insert(0, f"No control in this grid, so nothing is said about {', '.join(lonely)}.")
    if notes:
        blocks.append(Bullets(notes))
    return [*blocks, differences] if len(differences.data) else blocks


def _answers(finding: Finding) -> Answers:
    note = f"They differ in {', '.join(finding.differs)}." if finding.differs else ""
    items = [Answer(claim.topic, claim.state, claim.words) for claim in finding.claims]
    return Answers(f"{finding.arm} against {finding.control}", note, items, finding.limits)


def _ablations(frame: GridFrame, results: Results) -> list[Block]:
    blocks: list[Block] = []
    for kind in REFERENCES:
        table = subset_table(frame, kind, results.verdicts)
        if len(table.data):
            blocks.append(table)
    blocks += [_answers(f) for f in results.findings if f.kind in REFERENCES]
    return [*blocks, *_drawn(frame, "Layers and sites")]


def _no_spikes(log: SpikeLog) -> str:
    if not log.rates:
        return "No run is long enough for the spike detector, which needs 16 steps of history."
    steps = sum(n for _, n in log.rates.values())
    return f"No spike in {steps} judged steps of the finished cells."


def _cells(frame: GridFrame, results: Results) -> list[Block]:
    rows = frame.cells[frame.cells["state"] != FINISHED]
    gaps = [
        f"{row['arm']}, seed {row['seed']}: {row['state']} after {row['steps_done']} step(s)"
        + (f" ({first_line(row['error'])})" if row["error"].strip() else "")
        + "; not in any mean."
        for row in row_dicts(rows)
    ]
    gaps += [
        str(item)
        for item in (
            *frame.missing,
            *frame.unread,
            *frame.pass_curves.missing,
            *results.spikes.missing,
        )
    ]
    notes: Block = (
        Bullets(gaps, warning=True) if gaps else Text("Every cell finished, every file was read.")
    )
    return [notes, cells_table(frame)]
