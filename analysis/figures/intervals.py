"""Draw arms whose noise differs in one setting alone, beside their control; for `layers` and `sites`."""

from typing import Final, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alpkit.analysis.figures.over_steps import summarise
from alpkit.analysis.figures.panels import SOFT, Looks
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.text import row_dicts
from alpkit.config.grid.comparisons import subsets

Axis = Literal["layers", "site"]

ENDPOINTS: Final = {
    "eval_greedy": "greedy accuracy",
    "final_reward": "final reward",
    "k3_mean": "K3, nats",
    "width": "P98 − P2, token, nats",
    "khat_right": "k̂ of the token ratio",
}
NO_NOISE: Final = "no noise"


def setting_numbers(frame: GridFrame, axis: Axis) -> pd.DataFrame:
    """Give columns group, arm, setting, endpoint, mean, low, high, n, interval: arms that differ in `axis` alone.

    setting: the layer subset or site; `no noise` for the arms' controls. Empty unless the grid has such
    arms. Intervals over finished seeds as in `over_steps`.
    """
    done, parts = frame.finished, []
    for number, group in enumerate(subsets(frame.arm_configs, axis), start=1):
        controls = [frame.grid.controls.get(arm) for arm in group]
        settings = {arm: NO_NOISE for arm in controls if arm} | group
        rows = done[done["arm"].isin(list(settings))]
        rows = rows.assign(setting=rows["arm"].map(settings), group=number)
        rows["order"] = rows["arm"].map({arm: i for i, arm in enumerate(settings)})
        rows = rows.sort_values("order", kind="stable")
        for endpoint in ENDPOINTS:
            known = rows.dropna(subset=[endpoint])
            if len(known):
                part = summarise(known, ["group", "arm", "setting"], endpoint)
                parts.append(part.assign(endpoint=endpoint))
    columns = ["group", "arm", "setting", "endpoint", "mean", "low", "high", "n", "interval"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Lay out a row of panels per group of arms, a panel per endpoint, a line per setting."""
    groups = list(dict.fromkeys(data["group"]))
    endpoints = [name for name in ENDPOINTS if (data["endpoint"] == name).any()]
    heights = [data[data["group"] == group]["arm"].nunique() for group in groups]
    figure = Figure(figsize=(2.3 * len(endpoints) + 1.6, 0.34 * sum(heights) + 0.9 * len(groups)))
    grid = figure.subplots(
        len(groups), len(endpoints), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for group, panels in zip(groups, grid):
        for name, panel in zip(endpoints, panels):
            part = data[(data["group"] == group) & (data["endpoint"] == name)]
            draw_panel(part, panel, looks)
            panel.set_yticks(range(len(part)), part["setting"] if panel is panels[0] else [])
            panel.xaxis.set_major_locator(MaxNLocator(4))
            panel.grid(axis="y", visible=False)
            if group == groups[0]:
                panel.set_title(ENDPOINTS[name], fontsize=9)
    return figure


def draw_panel(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """One endpoint: a row per arm, its mean and interval; the controls' as a shaded column."""
    for place, row in enumerate(data.to_dict("records")):
        look = looks[row["arm"]]
        axes.plot([row["low"], row["high"]], [place, place], color=look.colour, lw=2)
        axes.plot(row["mean"], place, look.marker or "o", color=look.colour, ms=6)
        if row["setting"] == "no noise":
            axes.axvspan(row["low"], row["high"], color=SOFT, alpha=0.12, lw=0)
    axes.set_ylim(len(data) - 0.5, -0.5)
    return axes


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say the first endpoint's mean per setting."""
    first = next(name for name in ENDPOINTS if (data["endpoint"] == name).any())
    means = [
        f"{row['setting']} {row['mean']:.3f}" for row in row_dicts(data[data["endpoint"] == first])
    ]
    return (
        "Means and intervals over seeds per setting of the noise, a panel per endpoint. "
        f"Mean {ENDPOINTS[first]}: {'; '.join(means)}."
    )
