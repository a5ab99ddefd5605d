"""Write the first screen's sentences: one claim per question in plain words, or the one reason for none.

A claim comes from a verdict (`alpkit.analysis.seeds.verdicts`) alone; beside it stands what was seen, as
what it is. What limits all of it is said in one line.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.pairs import Pair
from alpkit.analysis.seeds.scores import FINISHED
from alpkit.analysis.seeds.verdicts import ENDPOINTS, Topic, Verdict
from alpkit.analysis.spike_frame import SpikeLog
from alpkit.analysis.tables.overview import score_column
from alpkit.analysis.text import brief, first_line, row_dicts
from alpkit.config.grid.comparisons import MIN_SEEDS

State = Literal["changed", "not told apart", "no test"]
_ENDPOINTS: Final = {endpoint.column: endpoint for endpoint in ENDPOINTS}
QUESTIONS: Final[dict[Topic, str]] = {
    "final performance": "Did it learn?",
    "tail heaviness": "Whose tail is heavy?",
    "KL spikes": "Did the KL spike?",
    "distance to the sampler": "How far from the sampler?",
}
_VERBS: Final[dict[Topic, tuple[str, str]]] = {
    "final performance": ("beats", "trails"),
    "tail heaviness": ("has a heavier tail than", "has a lighter tail than"),
    "KL spikes": ("has higher KL peaks than", "has lower KL peaks than"),
    "distance to the sampler": (
        "goes further from the sampler than",
        "stays closer to the sampler than",
    ),
}
_UNITS: Final = {
    "eval_greedy": "accuracy",
    "final_reward": "reward",
    "khat_right": "k̂",
    "k3_peak": "P99/P50 of K3",
    "k3_mean": "mean K3",
    "width": "P98 − P2",
}


class Told(NamedTuple):
    """One question of the first screen: what the tests say of it, and what was seen."""

    question: str
    state: State
    claims: tuple[str, ...]
    seen: str


def claims(
    frame: GridFrame, compared: Sequence[Pair], found: Sequence[Verdict], spikes: SpikeLog
) -> list[Told]:
    """Write a claim for each question, in reading order."""
    seen: dict[Topic, str] = {
        "final performance": _learned(frame),
        "tail heaviness": _highest(frame, "khat_right", "Heaviest tail", "k̂"),
        "KL spikes": _spiked(spikes),
        "distance to the sampler": _highest(frame, "k3_mean", "Furthest", "mean K3"),
    }
    # The noise's own comparison first: it is what a grid with a control was made for.
    noise = {(p.arm, p.control) for p in compared if p.kind == "noise"}
    ordered = sorted(found, key=lambda v: v[:2] not in noise)
    return [_told(topic, question, ordered, seen[topic]) for topic, question in QUESTIONS.items()]


def reason(frame: GridFrame, found: Sequence[Verdict]) -> str:
    """Say why no difference can be claimed at all; empty where at least one test was made."""
    if any(v.tested for v in found):
        return ""
    if frame.only_cell:
        return f"This is one cell: alpkit analyze {frame.grid.name} has its grid's comparisons."
    if frame.finished.empty:
        states = ", ".join(
            f"{n} {state}" for state, n in frame.cells["state"].value_counts().items()
        )
        return f"No cell has finished, so there is nothing to compare yet: {states or 'no cells'}."
    if len(frame.arms) < 2:
        return (
            "One arm: there is nothing to compare it with, so this page shows and claims nothing."
        )
    if not found:
        return "No arm shares a finished seed with a control, so no difference can be claimed."
    most = max(len(v.points) for v in found)
    if most < MIN_SEEDS:
        return (
            f"No difference can be claimed: {most} shared finished seed{'s' if most > 1 else ''}, a "
            f"test needs {MIN_SEEDS}. What you see may be seed noise."
        )
    return (
        "No difference can be claimed: the seeds of each comparison are equal, or no test is named."
    )


def limits(frame: GridFrame, compared: Sequence[Pair], found: Sequence[Verdict]) -> list[str]:
    """List what limits every number on the page: seeds, confounded comparisons, cells that failed."""
    told = []
    counts = frame.finished.groupby("arm").size()
    if len(counts):
        low, high = int(counts.min()), int(counts.max())
        seeds = str(high) if low == high else f"{low} to {high}"
        told.append(f"{seeds} finished seed{'s' if high != 1 else ''} per arm.")
    tests = sum(v.tested for v in found)
    if tests:
        told.append(f"{tests} tests, Holm-adjusted.")
    mixed = [p.arm for p in compared if p.confounded and p.kind not in ("layers", "site")]
    if mixed:
        told.append(f"Confounded, several ingredients changed at once: {_listed(mixed, 4)}.")
    left = frame.cells[frame.cells["state"] != FINISHED]
    for state, rows in left.groupby("state", sort=False):
        cells = [_cell(row) for row in row_dicts(rows)]
        told.append(f"{str(state).capitalize()}: {_listed(cells, 3)}.")
    return told


def _cell(row: dict[str, object]) -> str:
    text = f"{row['arm']} seed {row['seed']} after {row['steps_done']} steps"
    error = str(row["error"] or "")
    return f"{text} ({first_line(error)[:80]})" if error.strip() else text


def _told(topic: Topic, question: str, found: Sequence[Verdict], seen: str) -> Told:
    own = [v for v in found if _ENDPOINTS[v.endpoint].topic == topic and v.tested]
    best: dict[tuple[str, str], Verdict] = {}
    for verdict in own:
        pair = verdict[:2]
        # A pair's first endpoint speaks for it, unless only another one is beyond noise.
        if pair not in best or (verdict.beyond_noise and not best[pair].beyond_noise):
            best[pair] = verdict
    changed = [v for v in best.values() if v.beyond_noise]
    alike = [v for v in best.values() if not v.beyond_noise]
    sentences = [_claim(topic, v) for v in changed[:2]]
    if more := len(changed) - 2 if len(changed) > 2 else 0:
        sentences.append(f"{more} more pair{'s' if more > 1 else ''} differ, see Comparisons.")
    if alike:
        sentences.append(_alike(alike, others=bool(changed)))
    state: State = "changed" if changed else "not told apart" if alike else "no test"
    return Told(question, state, tuple(sentences), seen)


def _claim(topic: Topic, v: Verdict) -> str:
    verb = _VERBS[topic][0 if v.difference > 0 else 1]
    return f"{v.arm} {verb} {v.control}: {_effect(v)}, {len(v.points)} seeds."


def _effect(v: Verdict) -> str:
    """Write an effect with its interval, `k̂ -0.251 [-0.262, -0.24]`; as a factor where the endpoint is a logarithm."""
    name = _UNITS[v.endpoint]
    if _ENDPOINTS[v.endpoint].log:
        low, middle, high = (brief(float(10.0**x)) for x in (v.low, v.difference, v.high))
        return f"{name} × {middle} [{low}, {high}]"
    low, middle, high = (brief(x, signed=True) for x in (v.low, v.difference, v.high))
    return f"{name} {middle} [{low}, {high}]"


def _alike(alike: Sequence[Verdict], *, others: bool) -> str:
    """Say which pairs the seeds do not tell apart, and which effect they would have shown."""
    by_control: dict[str, list[str]] = {}
    for v in alike:
        by_control.setdefault(v.control, []).append(v.arm)
    # From which: the same arm may be told apart from another one.
    parts = [f"{_listed(arms, 4)} from {control}" for control, arms in by_control.items()]
    if others:
        return f"Not told apart: {'; '.join(parts)}."
    first = min(alike, key=lambda v: v.detectable)
    if _ENDPOINTS[first.endpoint].log:
        size = f"a factor of {brief(10.0**first.detectable)}"
    else:
        size = brief(first.detectable)
    n = len(first.points)
    return f"Not told apart: {'; '.join(parts)} ({n} seeds would find {size} in {_UNITS[first.endpoint]})."


def _learned(frame: GridFrame) -> str:
    """Say where the score started, and where the arms' scores ended."""
    column = score_column(frame)
    ends = frame.finished.groupby("arm", sort=False)[column].mean().dropna()
    if ends.empty:
        return ""
    label = "Greedy accuracy" if column == "eval_greedy" else "Reward"
    key, first = ("eval/greedy", 0) if column == "eval_greedy" else ("reward/mean", 1)
    start = (
        frame.steps.loc[frame.steps["step"] == first, key].dropna()
        if key in frame.steps
        else pd.Series(dtype=float)
    )
    low, high = str(ends.idxmin()), str(ends.idxmax())
    if low == high:
        span = f"{brief(float(ends.iloc[0]))}"
    else:
        span = f"{brief(float(ends[low]))} ({low}) to {brief(float(ends[high]))} ({high})"
    began = f" from {brief(float(start.mean()))}" if len(start) else ""
    return f"{label} went{began} to {span}."


def _highest(frame: GridFrame, column: str, words: str, unit: str) -> str:
    means = frame.finished.groupby("arm", sort=False)[column].mean().dropna()
    if means.empty:
        return ""
    top = str(means.idxmax())
    if len(means) == 1:
        return f"{unit} {brief(float(means[top]))}."
    rest = means.drop(top)
    return (
        f"{words}: {top}, {unit} {brief(float(means[top]))}; the others "
        f"{brief(float(rest.min()))} to {brief(float(rest.max()))}."
    )


def _spiked(log: SpikeLog) -> str:
    if not log.rates:
        return "The runs are too short for the spike detector (16 steps of history)."
    judged = sum(steps for _, steps in log.rates.values())
    hit = {arm: count for arm, (count, _) in log.rates.items() if count}
    if not hit:
        return f"No spike in {judged:,} judged steps."
    parts = [f"{arm} {count}" for arm, count in sorted(hit.items(), key=lambda item: -item[1])]
    return f"Steps with a spike, of {judged:,} judged: {_listed(parts, 3)}."


def _listed(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
