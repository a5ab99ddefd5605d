"""The figures of the report in reading order: for each, its numbers, its drawing and its words.

A figure is one entry of `PLANS`; the page shows it in the section that it names, and leaves it out
where its data is empty. The numbers come from `analysis.plotted`, the drawing from `analysis.figures`.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import pandas as pd

from analysis import figures, plotted, plotted_tails
from analysis.frames import GridFrame
from analysis.style import Look

Place = Literal["Results", "The ratio", "Corrections", "Noise", "Layers and sites", "All cells"]


class Plan(NamedTuple):
    """A figure before it is drawn; `name` is its files' name, `alt` is written from its data."""

    name: str
    section: Place
    title: str
    data: Callable[[GridFrame], pd.DataFrame]
    sheet: Callable[[pd.DataFrame, dict[str, Look]], Any]
    alt: Callable[[GridFrame, pd.DataFrame], str]
    caption: str


def _dynamics_alt(frame: GridFrame, data: pd.DataFrame) -> str:
    ends = [
        f"{arm} {_range(frame.finished.loc[frame.finished['arm'] == arm, 'eval_greedy'])}"
        for arm in frame.arms
    ]
    return (
        "Reward, greedy accuracy, gradient norm and K3 over steps, one line per arm. "
        f"Greedy accuracy at the end, lowest to highest seed: {'; '.join(ends)}."
    )


def _envelope_alt(frame: GridFrame, data: pd.DataFrame) -> str:
    tokens = data[(data["level"] == "token") & (data["ratio"] == "raw")]
    lowest = tokens.groupby("arm", sort=False).first()
    widths = [f"{arm} {row.p98 - row.p02:.2f}" for arm, row in lowest.iterrows()]
    return (
        "P2 to P98 of the log ratio against log µ, a column per arm; tokens above, whole responses "
        f"below. Width in nats where µ is lowest, tokens: {'; '.join(widths)}."
    )


def _ccdf_alt(frame: GridFrame, data: pd.DataFrame) -> str:
    tokens = data[(data["level"] == "token") & (data["side"] == "right")]
    tokens = tokens[tokens["arm"].isin(frame.arms)]
    tops = [f"{arm} {part['z'].max():.1f}" for arm, part in tokens.groupby("arm", sort=False)]
    return (
        "Share of ratios above z on log-log axes, one line per arm; ratio left, inverse right, "
        f"tokens above, responses below. Largest z drawn for tokens: {'; '.join(tops)}."
    )


def _range(values: "pd.Series[float]") -> str:
    values = values.dropna()
    return f"{values.min():.3f} to {values.max():.3f}" if len(values) else "none"


PLANS: Final[list[Plan]] = [
    Plan(
        "dynamics",
        "Results",
        "Training dynamics",
        plotted.dynamics_frame,
        figures.dynamics_sheet,
        _dynamics_alt,
        "Line: mean over finished seeds; band: from the lowest to the highest seed. Thin dashes: "
        "single cells that have not finished. K3 on a logarithmic axis.",
    ),
    Plan(
        "envelope",
        "The ratio",
        "Envelope of the log ratio",
        plotted_tails.envelope_frame,
        figures.envelope_sheet,
        _envelope_alt,
        "Shade: P2 to P98 of log π_θ − log µ, unperturbed, in up to 50 bins of equal count; line: "
        "median. Dashes, for arms with noise: the same with the noise on, the ratio that their loss "
        "sees. Below: the response's summed log ratio at its mean log µ. All panels of a row share "
        "their axes. Pooled over finished seeds and recorded steps.",
    ),
    Plan(
        "ccdf",
        "The ratio",
        "Tail of the ratio and of its inverse",
        plotted_tails.ccdf_frame,
        figures.ccdf_sheet,
        _ccdf_alt,
        "Band: 90 % bootstrap over prompts. A straight line would be a power law, but looks alike "
        "for a log-normal: read it with k̂. "
        "Where the band reaches the bottom, single prompts decide.",
    ),
]
