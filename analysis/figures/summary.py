"""The first screen's figure: did it learn, how wide is the ratio, how heavy is its tail."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alpkit.analysis.figures.over_steps import FINISHED_SERIES, over_steps
from alpkit.analysis.figures.panels import SOFT, Looks, legend_below, log_ticks, of_arm, span_lines
from alpkit.analysis.figures.pools import joined, pools
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.tables.overview import chief_arms, score_column
from alpkit.diagnostics import envelope

SCORES: Final = {"eval_greedy": "eval/greedy", "final_reward": "reward/mean"}
TITLES: Final = {
    "eval/greedy": "Greedy accuracy over steps",
    "reward/mean": "Reward over steps",
    "envelope": "P2 to P98 of the log ratio, over log µ",
    "edges": "P2 and P98 of the log ratio, over steps",
    "tail": "Share of ratios above z",
    "khat": "Tail shape k̂ over steps",
}
LOGARITHMIC: Final = ("tail",)
BINS: Final = 24
SMALLEST: Final = 3
"""Items beyond which a tail's curve ends: below, it is the path of single tokens."""
COLUMNS: Final = ["panel", "arm", "part", "x", "y", "low", "high"]


def numbers(frame: GridFrame) -> pd.DataFrame:
    """Give columns panel, arm, part, x, y, low, high: three panels, of the arms that the overview shows.

    The score over steps with its interval over seeds; the token log ratio's envelope over log mu (`part`
    p02, p98), else its edges over steps; the survival of the token ratio, else k̂ over steps.
    """
    arms = chief_arms(frame)
    key = SCORES[score_column(frame)]
    parts = [_lines(frame, arms, key, key)]
    held = {arm: pool for arm, level, pool in pools(frame) if level == "token" and arm in arms}
    for arm, pool in held.items():
        log_mu, raw, _ = pool.sample.T
        found = envelope(log_mu, raw, bins=max(1, min(BINS, log_mu.size // 200)))
        for part, values in (("p02", found.low), ("p98", found.high)):
            parts.append(_part("envelope", arm, part, found.centre, values))
        curve = pool.curve["right"]
        seen = (curve.survival * pool.n >= SMALLEST) & (curve.log_size > 0.02)
        parts.append(_part("tail", arm, "", np.exp(curve.log_size[seen]), curve.survival[seen]))
    if not held:
        for edge in ("p02", "p98"):
            parts.append(_lines(frame, arms, f"ratio/raw/token/{edge}", "edges", edge))
        parts.append(_lines(frame, arms, "ratio/raw/token/khat_right", "khat"))
    return joined(parts, COLUMNS)


def _lines(frame: GridFrame, arms: list[str], key: str, panel: str, part: str = "") -> pd.DataFrame:
    lines = over_steps(frame, [key])
    whole = lines["series"] == FINISHED_SERIES
    # Where no cell has finished, the lines of those that run are what there is.
    lines = lines[(whole if whole.any() else ~whole) & lines["arm"].isin(arms)]
    lines = lines.rename(columns={"step": "x", "mean": "y"})
    return lines.assign(panel=panel, part=part + lines["series"].where(~whole, ""))[COLUMNS]


def _part(panel: str, arm: str, part: str, x: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    columns = {"panel": panel, "arm": arm, "part": part, "x": x, "y": y}
    return pd.DataFrame({**columns, "low": np.nan, "high": np.nan})


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Three panels side by side."""
    names = list(dict.fromkeys(data["panel"]))
    figure = Figure(figsize=(12.4, 2.45))
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for name, panel in zip(names, panels):
        draw_panel(data[data["panel"] == name], panel, looks)
        panel.set_title(TITLES[name])
        if name == "tail":
            panel.set(xscale="log", yscale="log", xlabel="z, ratio of the token's probabilities")
            log_ticks(panel.xaxis)
            log_ticks(panel.yaxis)
        elif name == "envelope":
            panel.set_xlabel("log µ of the token, nats")
            panel.axhline(0, color=SOFT, lw=0.7)
        else:
            panel.set_xlabel("step")
            span_lines(panel, data.loc[data["panel"] == name, "y"])
    legend_below(figure, panels, looks)
    return figure


def draw_panel(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """One line per arm and part, all equally wide, with the interval over seeds where there is one."""
    for arm, own in data.groupby("arm", sort=False):
        look = looks[str(arm)]
        with of_arm(axes, str(arm)):
            for number, (_, part) in enumerate(own.groupby("part", sort=False)):
                label = str(arm) if number == 0 else None
                axes.plot(
                    part["x"], part["y"], color=look.colour, ls=look.line, lw=1.6, label=label
                )
                if (part["high"] > part["low"]).any():
                    axes.fill_between(
                        part["x"], part["low"], part["high"], color=look.colour, alpha=0.1, lw=0
                    )
    return axes


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say where each arm's score ends, and how far its tail reaches."""
    first = data[data["panel"] == data["panel"].iloc[0]]
    ends = [f"{arm} {part['y'].iloc[-1]:.3g}" for arm, part in first.groupby("arm", sort=False)]
    tails = data[data["panel"] == "tail"]
    reach = [f"{arm} {part['x'].max():.3g}" for arm, part in tails.groupby("arm", sort=False)]
    tail = f" Largest ratio drawn: {'; '.join(reach)}." if reach else ""
    return (
        "Score over steps, envelope of the log ratio and tail of the ratio, one line per arm. Score at the "
        f"end: {'; '.join(ends)}.{tail}"
    )


FIGURE: Final = ReportFigure(
    name="summary",
    section="Summary",
    title="At a glance",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        "Left: mean over finished seeds with their 95 % t interval (range below three). Middle: P2 and P98 of "
        "the token log ratio π_θ/µ. Right: share of token ratios above z; a flatter line is a heavier tail."
    ),
    absent="no cell has logged a step.",
)
