"""P2 to P98 of the log ratio against log µ, with and without the noise."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alpkit.analysis.figures.panels import INK, SHORT, SOFT, Looks, arm_grid, padded
from alpkit.analysis.figures.pools import DRAWN, NO_RECORDS, joined, pools
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.figures.style import Look
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.pairs import pairs
from alpkit.diagnostics import envelope

BINS: Final = 50
PER_BIN: Final = 200  # so that P2 rests on four items at least


def numbers(frame: GridFrame) -> pd.DataFrame:
    """Give columns arm, level, ratio, log_mu, n, p02, p50, p98, reference: equal-count bins of log mu.

    reference: whether the arm is the one that most others are compared with.

    ratio `raw` is unperturbed pi over mu; `perturbed`, for arms with noise, has the noise on. n counts
    the bin's items of the sample that the pool kept: all of them up to `pooled.SAMPLE`.
    """
    parts, reference = [], _reference(frame)
    for arm, level, pool in pools(frame):
        log_mu, raw, perturbed = pool.sample.T
        ratios = {"raw": raw, "perturbed": perturbed}
        parts += [
            _bins(log_mu, values).assign(
                arm=arm, level=level, ratio=name, reference=arm == reference
            )
            for name, values in ratios.items()
            if np.isfinite(values).any()
        ]
    return joined(parts, ["arm", "level", "ratio", "log_mu", "n", "p02", "p50", "p98", "reference"])


def _bins(log_mu: np.ndarray, log_ratio: np.ndarray) -> pd.DataFrame:
    found = envelope(log_mu, log_ratio, bins=max(1, min(BINS, log_mu.size // PER_BIN)))
    return pd.DataFrame(
        {
            "log_mu": found.centre,
            "n": found.items,
            "p02": found.low,
            "p50": found.median,
            "p98": found.high,
        }
    )


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Lay out a column per arm, token level above product level, all panels of a row on the same axes."""
    figure, panels = arm_grid(list(dict.fromkeys(data["arm"])), DRAWN, 2.35)
    for level, arm, panel, leftmost in panels:
        same_level = data[data["level"] == level]
        if len(same_level):
            draw_panel(same_level[same_level["arm"] == arm], panel, looks[arm])
            # The yardstick in every panel: who looks for a difference needs both in one place.
            _draw_reference(same_level[same_level["reference"].astype(bool)], panel, looks)
            panel.set_xlim(*padded(same_level["log_mu"], 0.04))
            panel.set_ylim(*padded(pd.concat([same_level["p02"], same_level["p98"]]), 0.04))
        panel.set_title(arm, color=looks[arm].colour)
        panel.tick_params(labelleft=leftmost)
        if leftmost:
            panel.set_ylabel(f"{SHORT[level]}\nlog ratio, nats")
        place = "log µ of the token" if level == "token" else "mean log µ of the response"
        panel.set_xlabel(place, fontsize=8)
        panel.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def draw_panel(data: pd.DataFrame, axes: Axes, look: Look) -> Axes:
    """P2-P98 and median of the log ratio against log µ; dots: with the noise on."""
    raw = data[data["ratio"] == "raw"]
    axes.fill_between(raw["log_mu"], raw["p02"], raw["p98"], color=look.colour, alpha=0.35, lw=0)
    axes.plot(raw["log_mu"], raw["p50"], color=look.colour, lw=1.5)
    noisy = data[data["ratio"] == "perturbed"]
    for edge in ("p02", "p98"):
        axes.plot(noisy["log_mu"], noisy[edge], color=INK, lw=0.9, ls=(0, (1, 1.2)))
    axes.axhline(0, color=SOFT, lw=0.7)
    return axes


def _reference(frame: GridFrame) -> str:
    """Find the arm that most others are compared with; the first one where none is."""
    controls = [pair.control for pair in pairs(frame)]
    return max(controls, key=controls.count, default=frame.arms[0] if frame.arms else "")


def _draw_reference(data: pd.DataFrame, axes: Axes, looks: Looks) -> None:
    raw = data[data["ratio"] == "raw"]
    for edge in ("p02", "p98") if len(raw) else ():
        colour = looks[str(raw["arm"].iloc[0])].colour
        axes.plot(raw["log_mu"], raw[edge], color=colour, lw=1.0, ls=(0, (4, 2)))


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say the width of the token envelope at its low-probability end."""
    tokens = data[(data["level"] == "token") & (data["ratio"] == "raw")]
    lowest = tokens.groupby("arm", sort=False).first()
    widths = [f"{arm} {row.p98 - row.p02:.2f}" for arm, row in lowest.iterrows()]
    return (
        "P2 to P98 of the log ratio against log µ, a column per arm; tokens above, whole responses "
        f"below. Width in nats where µ is lowest, tokens: {'; '.join(widths)}."
    )


FIGURE: Final = ReportFigure(
    name="envelope",
    section="The ratio",
    title="Envelope of the log ratio",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        "Shade: P2 to P98 of log π_θ − log µ, unperturbed, in up to 50 bins of equal count; line: "
        "median. Dashes in every panel: the reference arm. Dots, for arms with noise: with the noise on, "
        "the ratio that their loss sees. Below: the response's summed log ratio at its mean log µ. All "
        "panels of a row share their axes. Pooled over finished seeds and recorded steps; beyond 262,144 "
        "items a uniform sample of so many."
    ),
    absent=NO_RECORDS,
)
