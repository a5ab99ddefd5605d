"""The tables of the terminal, and the same content as JSON: states, plan, results, methods."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from rich.table import Table

from alpkit.config import Grid
from alpkit.config.cards import Card
from alpkit.metrics import EVALUATIONS, WINDOW, scored
from alpkit.runs.states import CellRecord
from alpkit.runs.steps import read_steps

RESULT_NOTE = (
    f"mean ± standard deviation over seeds of means over the last {WINDOW} steps, evaluations over at "
    f"least the last {EVALUATIONS}; no verdict: that is `alpkit analyze`"
)


class Column(NamedTuple):
    """A score of a result table: a metric's mean over the last steps, over `at_least` so many values."""

    title: str
    key: str
    at_least: int = 0


RESULTS = (
    Column("reward", "reward/mean"),
    Column("greedy", "eval/greedy", EVALUATIONS),
    Column("avg@k", "eval/avg_at_k", EVALUATIONS),
    Column("kl/k3", "kl/k3"),
    Column("ratio width", "ratio/raw/token/width"),
)


class PlanRow(TypedDict):
    """A cell of a plan, JSON-ready."""

    cell_id: str
    arm: str
    seed: int
    axes: dict[str, object]
    state: str


def cell_rows(grid: Grid, records: Sequence[CellRecord]) -> list[PlanRow]:
    """Make one JSON-ready row per cell of a plan."""
    return [
        {
            "cell_id": cell.cell_id,
            "arm": cell.arm,
            "seed": cell.seed,
            "axes": cell.axes,
            "state": record.state,
        }
        for cell, record in zip(grid.cells, records, strict=True)
    ]


def plan_table(rows: Iterable[PlanRow]) -> Table:
    table = _table("cell", "arm", "seed", "axes", "state")
    for row in rows:
        axes = ", ".join(f"{key}={value}" for key, value in row["axes"].items())
        table.add_row(row["cell_id"], row["arm"], str(row["seed"]), axes, row["state"])
    return table


def state_rows(records: Iterable[CellRecord]) -> list[dict[str, object]]:
    return [
        {
            "cell_id": r.cell_id,
            "arm": r.arm,
            "seed": r.seed,
            "state": r.state,
            "steps_done": r.steps_done,
            "run_id": r.run_id,
            "started": r.started,
            "ended": r.ended,
            "error": r.error,
        }
        for r in records
    ]


def state_table(records: Iterable[CellRecord]) -> Table:
    table = _table("cell", "arm", "seed", "state", "step", "run", "error")
    for r in records:
        error = (r.error or "").partition("\n")[0]
        table.add_row(
            r.cell_id, r.arm, str(r.seed), r.state, str(r.steps_done), r.run_id[:8], error
        )
    return table


def result_rows(folder: Path, records: Iterable[CellRecord]) -> list[dict[str, Any]]:
    """Give every arm's scores: mean and standard deviation over the seeds that finished."""
    arms: dict[str, list[CellRecord]] = {}
    for record in records:
        arms.setdefault(record.arm, []).append(record)
    rows = []
    for arm, cells in arms.items():
        finished = [cell for cell in cells if cell.state == "finished"]
        histories = [read_steps(folder / cell.cell_id) for cell in finished]
        row: dict[str, Any] = {"arm": arm, "finished": len(finished), "cells": len(cells)}
        for column in RESULTS:
            scores = [s for history in histories if (s := _score(history, column)) is not None]
            row[column.key] = {
                "mean": statistics.fmean(scores) if scores else None,
                "std": statistics.stdev(scores) if len(scores) > 1 else None,
                "seeds": len(scores),
            }
        rows.append(row)
    return rows


def result_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    table = _table("arm", "seeds", *(column.title for column in RESULTS))
    for row in rows:
        seeds = f"{row['finished']}/{row['cells']}"
        table.add_row(row["arm"], seeds, *(_with_spread(row[c.key]) for c in RESULTS))
    return table


def method_table(cards: Iterable[Card]) -> Table:
    columns = ("ratio", "surrogate", "weight", "reject", "perturbation")
    table = _table("method", *columns, "formula")
    for card in cards:
        cells = (card.axes.get(column, "none") for column in columns)
        table.add_row(card.name, *cells, card.preset.formula)
    return table


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Make a table of rows that are text already."""
    table = _table(*columns)
    for row in rows:
        table.add_row(*row)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        # Ids and names are what people copy: they are never cut.
        table.add_column(column, no_wrap=column in ("cell", "arm", "run", "method"))
    return table


def _score(history: Sequence[tuple[int, Mapping[str, float | None]]], c: Column) -> float | None:
    values = {step: v for step, metrics in history if (v := metrics.get(c.key)) is not None}
    last = history[-1][0] if history else 0
    steps = scored(list(values), last, at_least=c.at_least)
    return statistics.fmean(values[step] for step in steps) if steps else None


def _with_spread(score: Mapping[str, float | None]) -> str:
    mean, std = score["mean"], score["std"]
    if mean is None:
        return "–"
    return f"{mean:.3g}" if std is None else f"{mean:.3g} ± {std:.2g}"
