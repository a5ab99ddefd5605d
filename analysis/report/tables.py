"""Give one table of the report by its name, for notebooks, without the page around it."""

from collections.abc import Callable, Mapping
from typing import Final

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.report.results import gather
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.cells import cells_table
from alpkit.analysis.tables.cost import cost_table
from alpkit.analysis.tables.differences import differences_table
from alpkit.analysis.tables.divergence import divergence_table
from alpkit.analysis.tables.findings import findings_table
from alpkit.analysis.tables.main import main_table
from alpkit.analysis.tables.overview import overview, overview_table
from alpkit.analysis.tables.receipt import receipt_table
from alpkit.analysis.tables.results import results_table
from alpkit.analysis.tables.spikes import spikes_table
from alpkit.analysis.tables.spread import spread_table
from alpkit.analysis.tables.steadiness import steadiness_table
from alpkit.analysis.tables.tails import tail_frame, tails_table
from alpkit.errors import GridError, did_you_mean

# Tables that need the grid alone.
_PLAIN: Final[Mapping[str, Callable[[GridFrame], Table]]] = {
    "overview": lambda frame: overview_table(overview(frame)),
    "results": results_table,
    "divergence": divergence_table,
    "spread": spread_table,
    "steadiness": steadiness_table,
    "receipt": receipt_table,
    "cost": cost_table,
    "cells": cells_table,
    "spikes": lambda frame: spikes_table(frame.spike_log),
    "tails": lambda frame: tails_table(tail_frame(frame), frame.spike_log.rates),
}


def _main(frame: GridFrame) -> Table:
    results = gather(frame)
    return main_table(frame, results.pairs, results.verdicts)


TABLES: Final[Mapping[str, Callable[[GridFrame], Table]]] = {
    **_PLAIN,
    "main": _main,
    "findings": lambda frame: findings_table(gather(frame).findings),
    "differences": lambda frame: differences_table(gather(frame).verdicts),
}


def table_named(name: str, frame: GridFrame) -> Table:
    """Compute one table of the report; raises `GridError` for a name that is none."""
    if name not in TABLES:
        raise GridError(
            f"no table is called {name!r}",
            where=frame.grid.name,
            why="a table goes by the name of its files in the report",
            fix=did_you_mean(name, TABLES, "tables"),
        )
    return TABLES[name](frame)
