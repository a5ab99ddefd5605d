"""The causes of a gap between sampler and trainer, as `alpkit doctor --explain-gap` draws them; no part of a report."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from alpkit.analysis.figures.style import context
from alpkit.diagnostics.gap_causes import GapShares

_FLOOR = 1e-8


def draw_gap(shares: GapShares, floor: float, labels: Mapping[str, str]) -> Figure:
    """Draw each cause's standard deviation beside the gap's and the noise floor, and its share of the variance."""
    names = list(reversed([*shares.causes, "the gap"]))
    causes = {**shares.causes, "the gap": shares.total}
    with context():
        figure = Figure(figsize=(8.2, 0.42 * len(names) + 1.4), layout="constrained")
        size, part = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        rows = np.arange(len(names))
        size.barh(rows, [max(causes[name].sd, _FLOOR) for name in names], color="#4c78a8")
        size.axvline(max(floor, _FLOOR), color="0.3", linestyle=":", label="noise floor")
        size.set_xscale("log")
        size.set_xlim(left=_FLOOR)
        size.set_yticks(rows, [labels.get(name, name) for name in names])
        size.set_xlabel("standard deviation over tokens, nats")
        size.legend(loc="lower right")
        part.barh(
            rows,
            [causes[name].share if name != "the gap" else np.nan for name in names],
            color="#e0883a",
        )
        part.axvline(0, color="0.3", linewidth=0.8)
        part.xaxis.set_major_formatter(PercentFormatter(1.0))
        part.set_xlabel("share of the gap's variance")
    return figure
