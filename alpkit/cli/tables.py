"""The tables of the terminal, and the same content as JSON: states, plan, results, methods."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from alpkit.cli.layout import Column as Shown
from alpkit.cli.layout import TextTable, plain
from alpkit.config import Grid
from alpkit.config.cards import Card
from alpkit.metrics import EVALUATIONS, scored
from alpkit.runs.states import CellRecord
from alpkit.runs.steps import read_steps

if TYPE_CHECKING:
    from alpkit.diagnostics.noise_size import NoiseSize  # would bring scipy with it
    from alpkit.trainer.cost_probe import Cost  # would bring torch with it


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


def plan_table(rows: Iterable[PlanRow]) -> TextTable:
    texts = [
        [
            row["cell_id"],
            row["arm"],
            str(row["seed"]),
            ", ".join(f"{key}={value}" for key, value in row["axes"].items()),
            row["state"],
        ]
        for row in rows
    ]
    return plain(("cell", "arm", "seed", "axes", "state"), texts, "arm", "axes")


def noise_row(arm: str, size: "NoiseSize") -> dict[str, object]:
    """Give one arm's noise as measured by `plan --probe`, JSON-ready."""
    return {
        "arm": arm,
        "noise_to_rms": dict(size.to_rms),
        "perturbation_std": size.perturbation,
        "ratio_std": size.ratio,
        "cautions": list(size.cautions()),
    }


def noise_table(sizes: "Mapping[str, NoiseSize]") -> TextTable:
    """Lay out the noise of every arm that `plan --probe` measured."""
    rows = []
    for arm, size in sizes.items():
        places = ", ".join(f"{place} {share:.2g}" for place, share in size.to_rms.items())
        share = "–" if size.share is None else f"{size.share:.0%}"
        rows.append([arm, places, f"{size.perturbation:.3g}", f"{size.ratio:.3g}", share])
    heads = ("arm", "noise / rms of the state", "noise, nats", "ratio, nats", "share")
    return plain(heads, rows, heads[1])


def cost_table(costs: "Mapping[str, Cost]") -> TextTable:
    """Lay out what a cell of every arm costs, as `plan --probe` measured it."""
    heads = ("arm", "s a step", "s an evaluation", "hours a cell", "GiB of disk a cell")
    rows = []
    for arm, cost in costs.items():
        numbers = (cost.step_seconds, cost.eval_seconds, cost.seconds / 3600, cost.disk / 2**30)
        rows.append([arm, *(f"{number:.3g}" for number in numbers)])
    return plain(heads, rows)


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


def state_table(records: Iterable[CellRecord]) -> TextTable:
    rows = []
    for r in records:
        error = (r.error or "").partition("\n")[0]
        rows.append(
            [r.cell_id, r.arm, str(r.seed), r.state, str(r.steps_done), r.run_id[:8], error]
        )
    columns = ["cell", "arm", "seed", "state", "step", "run"]
    if any(row[-1] for row in rows):
        columns.append("error")
    return plain(columns, [row[: len(columns)] for row in rows], "arm", "error")


def result_rows(folder: Path, records: Iterable[CellRecord]) -> list[dict[str, object]]:
    """Give every arm's scores: mean and standard deviation over the seeds that finished."""
    arms: dict[str, list[CellRecord]] = {}
    for record in records:
        arms.setdefault(record.arm, []).append(record)
    rows = []
    for arm, cells in arms.items():
        finished = [cell for cell in cells if cell.state == "finished"]
        histories = [read_steps(folder / cell.cell_id) for cell in finished]
        row: dict[str, object] = {"arm": arm, "finished": len(finished), "cells": len(cells)}
        for column in RESULTS:
            scores = [s for history in histories if (s := _score(history, column)) is not None]
            row[column.key] = {
                "mean": statistics.fmean(scores) if scores else None,
                "std": statistics.stdev(scores) if len(scores) > 1 else None,
                "seeds": len(scores),
            }
        rows.append(row)
    return rows


def method_table(cards: Iterable[Card]) -> TextTable:
    axes = ("ratio", "surrogate", "weight", "reject", "perturbation")
    columns = [Shown("method"), Shown("formula", text=True, comfort=50)]
    columns += [Shown(axis, text=True, extra=True) for axis in axes]
    rows = [
        [card.name, card.preset.formula, *(card.axes.get(axis, "none") for axis in axes)]
        for card in cards
    ]
    return TextTable(columns, rows)


def _score(history: Sequence[tuple[int, Mapping[str, float | None]]], c: Column) -> float | None:
    values = {step: v for step, metrics in history if (v := metrics.get(c.key)) is not None}
    last = history[-1][0] if history else 0
    steps = scored(list(values), last, at_least=c.at_least)
    return statistics.fmean(values[step] for step in steps) if steps else None
