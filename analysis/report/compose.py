"""Order the report into sections, in the order in which they are read."""

from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from alpkit.analysis.figures import FIGURES, style
from alpkit.analysis.figures.spec import Place
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading.items import LEVELS
from alpkit.analysis.report.first import anchor_of, first_screen
from alpkit.analysis.report.inline_svg import colour_of, colour_rules
from alpkit.analysis.report.page import (
    Answer,
    Answers,
    Block,
    Bullets,
    Fold,
    Page,
    Section,
    Text,
)
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
from alpkit.analysis.tables.overview import overview_table
from alpkit.analysis.tables.receipt import receipt_table
from alpkit.analysis.tables.results import results_table
from alpkit.analysis.tables.spikes import spikes_table
from alpkit.analysis.tables.spread import spread_table
from alpkit.analysis.tables.steadiness import steadiness_table
from alpkit.analysis.tables.subsets import subset_table
from alpkit.analysis.tables.tails import tails_table
from alpkit.analysis.tables.tasks import tasks_table
from alpkit.analysis.tables.turns import by_turn_table, open_to, turns_table
from alpkit.analysis.text import first_line, row_dicts
from alpkit.config.grid.comparisons import REFERENCES
from alpkit.tracking.address import masked


class Composed(NamedTuple):
    """The page, its numbers, and tables that have a file although the page has no room for them."""

    page: Page
    summary: dict[str, object]
    unshown: tuple[Table, ...]


def compose(frame: GridFrame, tracking_uri: str | None) -> Composed:
    """Compute everything and order it into a page and its summary; nothing is written here."""
    results = gather(frame)
    looks = style.looks(frame.cells)
    differences = differences_table(results.verdicts)
    tails = tails_table(results.tails, results.spikes.rates)
    sections = [
        _comparisons(frame, results, differences),
        Section("Results", _results(frame, results), "scores over seeds, training curves, pass@k"),
        Section(
            "The ratio", _ratio(frame, results, tails), "divergence, spread and tails by level"
        ),
        Section("Turns", _turns(frame), "turns, tool calls, the ratio turn by turn"),
        Section("Spikes", _spikes(frame, results.spikes), _no_spikes(results.spikes)),
        Section("Layers and sites", _ablations(frame, results)),
        Section("Noise", _drawn(frame, "Noise"), "the noise's scale over steps"),
        Section("Corrections", _corrections(frame, results), "what each bound touched"),
        Section("Cost", [cost_table(frame)], "time and memory"),
        Section("All cells", _drawn(frame, "All cells"), "score against tail, a point per cell"),
        Section("Cells and gaps", _cells(frame, results), _states(frame)),
    ]
    page = Page(
        _title(frame),
        frame.grid.question,
        first_screen(frame, results, looks),
        [section for section in sections if _has_more_than_absence(section)],
        _facts(frame, tracking_uri),
        {arm: colour_of(looks, arm) for arm in looks},
        colour_rules(looks),
    )
    unshown: tuple[Table, ...] = (tails, results_table(frame), overview_table(results.overview))
    if not any(v.tested for v in results.verdicts):
        unshown = (*unshown, differences)
    return Composed(page, summary(frame, results), unshown)


def _has_more_than_absence(section: Section) -> bool:
    """Whether a section shows anything beside notes that a figure was not drawn."""
    return any(
        not (isinstance(block, Text) and ": not drawn, " in block.words) for block in section.blocks
    )


def _drawn(frame: GridFrame, place: Place) -> list[Block]:
    return [picture(figure, frame) for figure in FIGURES if figure.section == place]


def _comparisons(frame: GridFrame, results: Results, differences: Table) -> Section:
    """Compose the comparisons: the answers at a glance, then one fold for each pair."""
    blocks: list[Block] = [Text(opening(frame, results.verdicts), strong=True)]
    if results.findings:
        blocks.append(findings_table(results.findings))
    blocks += [_answers(f) for f in results.findings if f.kind not in ("layers", "site")]
    compared = {arm for f in results.findings for arm in (f.arm, f.control)}
    lonely = [arm for arm in frame.arms if arm not in compared]
    notes = list(frame.grid.notes)
    if lonely and not frame.only_cell:
        notes.insert(0, f"Nothing to be compared with in this grid: {', '.join(lonely)}.")
    if notes:
        blocks.append(Bullets(notes))
    # Differences without a test beside them invite a reading that they cannot bear.
    if any(v.tested for v in results.verdicts):
        blocks.append(differences)
    return Section("Comparisons", blocks, _compared(results))


def _compared(results: Results) -> str:
    count = len({(p.arm, p.control) for p in results.pairs})
    tested = len({v[:2] for v in results.verdicts if v.tested})
    return f"{count} pair{'s' if count != 1 else ''}, {tested} tested" if count else "none"


def _results(frame: GridFrame, results: Results) -> list[Block]:
    tasks = tasks_table(frame, results.pairs)
    return [
        main_table(frame, results.pairs, results.verdicts),
        *([tasks] if len(tasks.data) else []),
        *_drawn(frame, "Results"),
    ]


def _ratio(frame: GridFrame, results: Results, tails: Table) -> list[Block]:
    levels: list[Block] = [
        Fold(f"Tails at {level} level", f"tails-{level}", [part])
        for level in LEVELS
        if len((part := _level(tails, results.tails, level)).data)
    ]
    return [
        divergence_table(frame),
        spread_table(frame),
        *levels,
        *_drawn(frame, "The ratio"),
    ]


def _level(table: Table, tails: pd.DataFrame, level: str) -> Table:
    """Keep a table's rows of one level for the page; its file has all of them."""
    if tails.empty:
        return table
    own = (tails["level"] == level).to_numpy()
    return replace(table, data=table.data[own], shown=table.shown[own].drop(columns="level"))


def _turns(frame: GridFrame) -> list[Block]:
    """Compose the part of grids whose responses have several turns; empty for all others."""
    table = turns_table(frame)
    if not len(table.data):
        return []
    open_doors = sorted({text for arm in frame.arms if (text := open_to(frame, arm))})
    warnings: list[Block] = [Bullets(open_doors, warning=True)] if open_doors else []
    split = by_turn_table(frame)
    tables = [table, *([split] if len(split.data) else [])]
    return [*warnings, *tables, *_drawn(frame, "Turns")]


def _spikes(frame: GridFrame, log: SpikeLog) -> list[Block]:
    table = spikes_table(log)
    told: Block = table if len(table.data) else Text(_no_spikes(log))
    return [told, steadiness_table(frame)]


def _corrections(frame: GridFrame, results: Results) -> list[Block]:
    warnings: list[Block] = []
    if told := [*results.same, *results.warnings]:
        warnings = [Bullets(told, warning=True)]
    return [*warnings, receipt_table(frame), *_drawn(frame, "Corrections")]


def _title(frame: GridFrame) -> str:
    if not frame.only_cell or frame.cells.empty:
        return frame.grid.name
    cell = frame.cells.iloc[0]
    return f"{frame.grid.name}: {cell['arm']}, seed {cell['seed']}"


def _facts(frame: GridFrame, tracking_uri: str | None) -> list[tuple[str, str]]:
    cells, grid = frame.cells, frame.grid
    facts = [
        ("Cells", f"{len(cells)} ({_states(frame)})" if len(cells) else "none"),
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
    """List every value that occurs in these columns."""
    seen = cells[list(columns)].dropna(how="all").drop_duplicates()
    rows = [
        ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in r) for r in seen.to_numpy()
    ]
    return " | ".join(rows)


def _answers(finding: Finding) -> Fold:
    note = f"They differ in {', '.join(finding.differs)}." if finding.differs else ""
    items = [Answer(claim.topic, claim.state, claim.words) for claim in finding.claims]
    changed = [claim.brief for claim in finding.claims if claim.brief]
    return Fold(
        f"{finding.arm} against {finding.control}",
        anchor_of(finding.arm, finding.control),
        [Answers(note, items, finding.limits)],
        ", ".join(changed) or "no claim",
    )


def _ablations(frame: GridFrame, results: Results) -> list[Block]:
    blocks: list[Block] = []
    for kind in REFERENCES:
        table = subset_table(frame, kind, results.verdicts)
        if len(table.data):
            blocks.append(table)
    blocks += [_answers(f) for f in results.findings if f.kind in ("layers", "site")]
    return [*blocks, *_drawn(frame, "Layers and sites")]


def _no_spikes(log: SpikeLog) -> str:
    if len(log.rows):
        return f"{len(log.rows)} stored, with the tokens that made them"
    if not log.rates:
        return "No run is long enough for the spike detector, which needs 16 steps of history."
    steps = sum(n for _, n in log.rates.values())
    return f"No spike in {steps} judged steps of the finished cells."


def _cells(frame: GridFrame, results: Results) -> list[Block]:
    rows = frame.cells[frame.cells["state"] != FINISHED]
    gaps = [
        f"{row['arm']}, seed {row['seed']}: {row['state']} after {row['steps_done']} step(s)"
        + (f" ({first_line(row.text('error'))})" if row.text("error").strip() else "")
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


def _states(frame: GridFrame) -> str:
    return ", ".join(f"{n} {state}" for state, n in frame.cells["state"].value_counts().items())
