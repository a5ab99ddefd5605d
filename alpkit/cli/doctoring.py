"""`alpkit doctor`: what this machine offers, and where the gap between sampler and trainer comes from."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from alpkit.cli.layout import Column, TextTable
from alpkit.cli.output import note, print_json, print_table, say
from alpkit.launch.checkup import checkup
from alpkit.runs.resolved import one

if TYPE_CHECKING:
    from alpkit.diagnostics.gap_causes import Cause

_FIGURE = "gap.png"
_RESOLUTION = 1e-6


def check(tracking_uri: str | None, *, as_json: bool) -> bool:
    """Print every finding; True if nothing is amiss."""
    found = list(checkup(tracking_uri))
    if as_json:
        print_json([each._asdict() for each in found])
    else:
        columns = [Column("check"), Column(""), Column("found", text=True, comfort=50)]
        rows = [[each.what, each.status, each.found] for each in found]
        styles = {each.what: "red" for each in found if each.status == "amiss"}
        print_table(TextTable(columns, rows, styles=styles))
        for each in found:
            if each.status != "ok" and each.fix:
                note(f"{each.what}: {each.fix}")
    return all(each.status != "amiss" for each in found)


def explain_gap(name: str, *, items: int, figure: Path | None, as_json: bool) -> None:
    """Measure one configuration's gap, print its causes, and draw them."""
    config = one(name).config
    from alpkit.analysis.figures.gap_causes import draw_gap  # heavy: torch, matplotlib
    from alpkit.diagnostics.gap_causes import NO_GAP, share_out
    from alpkit.trainer.gap_probe import CAUSES, measure_gap

    measured = measure_gap(config, items=items)
    shares = share_out(measured.causes)
    # Where the trainer is the reference itself, float32's own resolution is left.
    floor = max(float(measured.floor.std()), _RESOLUTION)
    length = len(measured.sequence) / max(len(set(measured.sequence.tolist())), 1)
    path = figure or Path(_FIGURE)
    drawn = shares.status != "nonfinite"
    if drawn:
        draw_gap(shares, floor, {}).savefig(path)
    if as_json:
        told = {
            "model": config.model,
            "engine": config.rollout.engine,
            "tokens": shares.n,
            "status": shares.status,
            "total": _ready(shares.total._asdict()),
            "causes": {cause: _ready(each._asdict()) for cause, each in shares.causes.items()},
            "together": _number(shares.together),
            "strongest_pair": shares.strongest_pair,
            "noise_floor": _number(floor),
            "no_gap_below": NO_GAP,
            "figure": str(path) if drawn else None,
        }
        print_json(told)
        return
    columns = [
        Column("cause"),
        *(
            Column(head, right=True)
            for head in ("sd, nats", "p01", "p50", "p99", "share of variance")
        ),
        Column("what", text=True, extra=True),
    ]
    rows = [[cause, *_texts(each), CAUSES[cause]] for cause, each in shares.causes.items()]
    rows.append(["the gap", *_texts(shares.total), f"trainer − sampler, {shares.n} tokens"])
    print_table(TextTable(columns, rows))
    if shares.status == "none":
        say(f"there is no gap: {shares.total.sd:.1g} nats a token is float32's own rounding")
    else:
        say(_sum(shares.together, shares.strongest_pair))
    say(
        f"noise floor: an exact sampler would still differ by {floor:.2g} nats a token "
        f"({floor * math.sqrt(length):.2g} in the product of {length:.0f}); where a correction moves log ratios by "
        "less, it cannot be told from none"
    )
    note(str(path))


def _sum(together: float, pair: tuple[str, str] | None) -> str:
    text = f"the causes' variances add up to {together:.0%} of the gap's"
    if abs(together - 1) <= 0.15 or pair is None:
        return text
    return f"{text}: {pair[0]} and {pair[1]} move together, so that neither has a size of its own"


def _texts(each: "Cause") -> list[str]:
    sizes = [f"{value:.2g}" for value in (each.sd, each.p01, each.p50, each.p99)]
    return [*sizes, f"{each.share + 0.0:.1%}" if math.isfinite(each.share) else "–"]


def _ready(values: dict[str, float]) -> dict[str, float | None]:
    return {key: _number(value) for key, value in values.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
