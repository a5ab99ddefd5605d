"""`spikes.jsonl`: a line per step and metric that stood out, with the tokens and responses that made it.

Who decides what stands out is `alpkit.trainer.spike_watch`; what the run did around a spike is in its
metrics.

    {"step": 17, "metric": "kl/k3", "z": 9.1, "share_sequences": {"1": 0.97, ...}, "sequences": [...], ...}
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypedDict

from alpkit.metrics import WATCHED
from alpkit.runs.disk import append_text
from alpkit.runs.faults import Contents, scan_json_lines
from alpkit.runs.folder import RunFolder
from alpkit.runs.swap import write_text


class SpikeToken(TypedDict):
    """One of the tokens that made a spike; numbers that are not finite are null."""

    sample: int
    prompt: int
    position: int
    token: int
    text: str
    log_ratio: float | None
    contribution: float | None
    share: float | None


class SpikeSequence(TypedDict):
    """One of the responses that made a spike; `tokens` counts its tokens."""

    sample: int
    prompt: int
    contribution: float | None
    share: float | None
    tokens: int
    text: str


class Spike(TypedDict):
    """One line. `share_tokens`: "1", "10", "100" -> the share of the metric that so many tokens carry."""

    step: int
    metric: str
    value: float
    z: float
    status: str
    share_tokens: dict[str, float | None]
    share_sequences: dict[str, float | None]
    tokens: list[SpikeToken]
    sequences: list[SpikeSequence]


_KINDS: Final[Mapping[str, type]] = {
    "share_tokens": dict,
    "share_sequences": dict,
    "tokens": list,
    "sequences": list,
}


_SHARES: Final[tuple[tuple[str, Literal["share_tokens", "share_sequences"]], ...]] = (
    ("tokens", "share_tokens"),
    ("sequences", "share_sequences"),
)


class SpikeTable(NamedTuple):
    """Spikes for people: a row each."""

    columns: list[str]
    rows: list[list[object]]


def append_spikes(folder: Path, spikes: Iterable[Spike]) -> None:
    """Add lines to a run's spikes."""
    append_text(RunFolder(folder).spikes, "".join(map(_line, spikes)))


def scan_spikes(folder: Path) -> Contents[Spike]:
    """Read a run's spikes, and name the lines that cannot be read. Older lines may lack newer fields."""
    return scan_json_lines(RunFolder(folder).spikes, _spike)


def read_spikes(folder: Path) -> list[Spike]:
    """Read a run's spikes; `TrackingError` where the file is damaged.

    The half line that a killed process leaves at the end is skipped.
    """
    fix = "restore the file, or delete it: training does not need it"
    return scan_spikes(folder).strict("a spike cannot be read", fix)


def rewind_spikes(folder: Path, step: int | None) -> None:
    """Forget spikes after `step` (None: all), and half a line: training goes on from there."""
    path = RunFolder(folder).spikes
    if path.exists():
        kept = [
            spike
            for spike in scan_spikes(folder).rows
            if step is not None and spike["step"] <= step
        ]
        write_text(path, "".join(map(_line, kept)))


def spike_tags(spikes: Sequence[Spike]) -> dict[str, str]:
    """Make MLflow tags that count the spikes, in all and of each watched metric."""
    counts = {"alpkit.spikes": len(spikes)}
    for metric in WATCHED:
        tag = f"alpkit.spikes.{metric.replace('/', '.')}"
        counts[tag] = sum(spike["metric"] == metric for spike in spikes)
    return {tag: str(count) for tag, count in counts.items()}


def spike_table(spikes: Iterable[Spike]) -> SpikeTable:
    """Make a row per spike: when, how far, how concentrated, its largest sequence."""
    plain, first = ("step", "metric", "value", "z"), ("sample", "prompt", "text")
    shares = [(kind, k) for kind in ("tokens", "sequences") for k in ("1", "10", "100")]
    columns = [
        *plain,
        *(f"share of top {k} {kind}" for kind, k in shares),
        *(f"largest sequence's {name}" for name in first),
    ]
    rows: list[list[object]] = []
    for spike in spikes:
        line: Mapping[str, object] = spike
        largest: Mapping[str, object] = next(iter(spike.get("sequences", [])), {})
        held = {kind: spike.get(of, {}) for kind, of in _SHARES}
        rows.append(
            [
                *(line.get(name) for name in plain),
                *(held[kind].get(k) for kind, k in shares),
                *(largest.get(name) for name in first),
            ]
        )
    return SpikeTable(columns, rows)


def _spike(line: dict[str, object]) -> Spike:
    for name, kind in _KINDS.items():
        if not isinstance(line.get(name, kind()), kind):
            raise ValueError(f"{name} is of another type")
    step = line["step"]
    if not isinstance(step, int | float | str):
        raise ValueError("step is no number")
    spike: Spike = line | {"step": int(step), "metric": str(line["metric"])}  # type: ignore[assignment]
    return spike


def _line(spike: Spike) -> str:
    return json.dumps(spike, ensure_ascii=False) + "\n"
