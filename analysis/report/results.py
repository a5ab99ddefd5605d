"""Compute everything that a report is written from, once; `summary` gives it as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.pairs import Pair, pairs
from alpkit.analysis.seeds.scores import SCORES
from alpkit.analysis.seeds.verdicts import Verdict, over_seeds, verdicts
from alpkit.analysis.spike_frame import IDENTITY, SpikeLog
from alpkit.analysis.tables.findings import Finding, findings
from alpkit.analysis.tables.overview import Overview, overview
from alpkit.analysis.tables.receipt import idle
from alpkit.analysis.tables.same_runs import rare_bounds, same_runs
from alpkit.analysis.tables.tails import tail_frame
from alpkit.analysis.text import json_ready
from alpkit.config.grid.comparisons import MIN_SEEDS


@dataclass(frozen=True)
class Results:
    """Numbers from which the sections and the summary are written."""

    pairs: Sequence[Pair]
    verdicts: Sequence[Verdict]
    findings: Sequence[Finding]
    tails: pd.DataFrame
    spikes: SpikeLog
    warnings: Sequence[str]
    same: Sequence[str]
    overview: Overview


def gather(frame: GridFrame) -> Results:
    """Compute everything over the whole grid; figures compute their own numbers."""
    compared = pairs(frame)
    # An arm may be compared with one and the same control for two reasons: that is one test.
    both = dict.fromkeys((p.arm, p.control) for p in compared)
    found = verdicts(frame.cells, both, family={(p.arm, p.control) for p in compared if p.tested})
    tails, spikes = tail_frame(frame), frame.spike_log
    warnings = [str(warning) for warning in idle(frame)]
    answers = findings(frame, compared, found, tails, spikes)
    same = same_runs(frame, compared)
    same += rare_bounds(frame, but=same)
    return Results(compared, found, answers, tails, spikes, warnings, same, overview(frame))


def opening(frame: GridFrame, found: Sequence[Verdict]) -> str:
    """Write the first sentence: how much of what was compared is beyond seed noise, or why nothing is."""
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


def summary(frame: GridFrame, results: Results) -> dict[str, object]:
    """Give the report's numbers, ready for JSON."""
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
    missing = (
        *frame.missing,
        *frame.unread,
        *frame.pass_curves.missing,
        *results.spikes.missing,
    )
    told = {
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
        "opening": opening(frame, results.verdicts),
        "spikes": results.spikes.rows[IDENTITY].to_dict("records"),
        "warnings": list(results.warnings),
        "same_runs": list(results.same),
        "missing": [str(item) for item in missing],
        "notes": list(frame.grid.notes),
    }
    return {key: json_ready(value) for key, value in told.items()}
