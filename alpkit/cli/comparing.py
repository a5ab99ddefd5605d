"""`alpkit compare`: arms of one grid or of several, side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alpkit.cli.layout import plain
from alpkit.cli.output import note, print_json, print_table, say
from alpkit.cli.overview import print_overview
from alpkit.runs.find import resolve

if TYPE_CHECKING:
    from alpkit.analysis.compare import Comparison


def compare(names: Sequence[str], *, force: bool, as_json: bool) -> None:
    """Print scores, what differs in the configs, and what the seeds tell apart."""
    for name in names:
        # A misspelt name is reported before pandas is imported, which takes a second.
        if ":" not in name:
            resolve(name)
    from alpkit.analysis.compare import compare as compare_runs

    found = compare_runs(names, force=force)
    if as_json:
        print_json(_json(found))
        return
    from alpkit.analysis.text import row_dicts

    print_overview(row_dicts(found.overview.shown), found.colours)
    if found.differences:
        labels = [item.label for item in found.items]
        rows = [[key, *map(_text, values)] for key, values in found.differences.items()]
        print()
        print_table(plain(["config", *labels], rows))
    print()
    for verdict in found.verdicts:
        say(verdict.sentence)
    for text in found.notes:
        note(f"note: {text}")


def _json(found: "Comparison") -> dict[str, object]:
    from alpkit.analysis.text import json_ready

    return {
        "items": [
            {"label": item.label, "cells": item.cells["cell_id"].tolist()} for item in found.items
        ],
        "scores": json_ready(found.table.data.to_dict("records")),
        "differences": json_ready(found.differences),
        "verdicts": json_ready(
            [
                {**v._asdict(), "beyond_noise": v.beyond_noise, "sentence": v.sentence}
                for v in found.verdicts
            ]
        ),
        "notes": list(found.notes),
    }


def _text(value: object) -> str:
    return "–" if value is None else str(value)
