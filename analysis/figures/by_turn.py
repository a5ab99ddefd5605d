"""The ratio's width, effective sample size and tail index, turn by turn."""

from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alpkit.analysis.figures.panels import INK, Looks, legend_below, of_arm
from alpkit.analysis.figures.pools import NO_RECORDS
from alpkit.analysis.figures.spec import ReportFigure, range_text
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.tables.turns import by_turn_frame

PANELS: Final = {
    ("token", "width"): "P98 − P2, token (nats)",
    ("product", "width"): "P98 − P2, product over the turn (nats)",
    ("token", "ess"): "ESS, token",
    ("token", "khat"): "k̂ of the ratio, token",
}
"""Level and statistic of each panel."""
_UNTRUSTED: Final = 0.7


def numbers(frame: GridFrame) -> pd.DataFrame:
    """arm, level, statistic, turn, value, low, high, n: low and high for k̂ only (90 % bootstrap over prompts)."""
    tails = by_turn_frame(frame)
    columns = ["arm", "level", "statistic", "turn", "value", "low", "high", "n"]
    if tails.empty:
        return pd.DataFrame(columns=columns)
    right = tails[tails["side"] == "right"].reset_index(drop=True)
    left = tails[tails["side"] == "left"].reset_index(drop=True)
    values = {"width": right["p98"] + left["p98"], "ess": right["ess"], "khat": right["khat"]}
    parts = [
        right[["arm", "level", "turn", "n"]].assign(
            statistic=name,
            value=value,
            low=right["khat_low"] if name == "khat" else float("nan"),
            high=right["khat_high"] if name == "khat" else float("nan"),
        )
        for name, value in values.items()
    ]
    data = pd.concat(parts, ignore_index=True)[columns]
    drawn = [key in PANELS for key in zip(data["level"], data["statistic"])]
    return data[drawn].reset_index(drop=True)


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """A panel per statistic, turns on the axis."""
    figure = Figure(figsize=(9.0, 6.2))
    grid = figure.subplots(2, 2, sharex=True).ravel()
    for ((level, statistic), title), panel in zip(PANELS.items(), grid):
        own = data[(data["level"] == level) & (data["statistic"] == statistic)]
        draw_panel(own.dropna(subset=["value"]), panel, looks)
        panel.set_title(title)
        if statistic == "khat":
            panel.axhline(_UNTRUSTED, color=INK, lw=1, ls=(0, (4, 2)))
    for panel in grid[2:]:
        panel.set_xlabel("turn")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, grid, looks)
    return figure


def draw_panel(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """A line per arm over turns; intervals as bars, set side by side."""
    arms = list(dict.fromkeys(data["arm"]))
    for place, arm in enumerate(arms):
        look, own = looks[arm], data[data["arm"] == arm]
        shift = (place - (len(arms) - 1) / 2) * min(0.06, 0.4 / len(arms))
        bars = None
        if own["low"].notna().any():
            bars = [
                (own["value"] - own["low"]).clip(lower=0),
                (own["high"] - own["value"]).clip(lower=0),
            ]
        with of_arm(axes, arm):
            axes.errorbar(
                own["turn"] + shift, own["value"], bars, marker="o", color=look.colour,
                ls=look.line if bars is None else "", ms=4, lw=1.2, label=arm,
            )  # fmt: skip
    return axes


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """First and last turn's width, and the range of k-hat, of every arm."""
    parts = []
    for arm, part in data.groupby("arm", sort=False):
        width = part[(part["level"] == "token") & (part["statistic"] == "width")]["value"]
        khat = part[part["statistic"] == "khat"]["value"]
        parts.append(
            f"{arm} width {width.iloc[0]:.3f} in the first turn, {width.iloc[-1]:.3f} in the last, "
            f"k̂ {range_text(khat)}"
        )
    return (
        "Width of the log ratio per token and per turn, effective sample size and k̂, turn by turn: "
        f"{'; '.join(parts)}."
    )


FIGURE: Final = ReportFigure(
    name="by_turn",
    section="Turns",
    title="The ratio turn by turn",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        "The unperturbed π_θ over µ, split by the model's turns; from the token records, pooled over finished seeds "
        "and recorded steps. Bars: 90 % bootstrap over prompts. A turn whose tail is flat or short has no k̂. Above "
        "the dashed 0.7 a mean of the ratios cannot be trusted at any sample size."
    ),
    absent=f"every response is one turn, or {NO_RECORDS}",
)
