"""σ of each perturbed layer over steps, as a heat map per arm."""

from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alpkit.analysis.figures.over_steps import FINISHED_SERIES, over_steps
from alpkit.analysis.figures.panels import Looks
from alpkit.analysis.figures.spec import ReportFigure, range_text
from alpkit.analysis.frames import GridFrame


def numbers(frame: GridFrame) -> pd.DataFrame:
    """Give columns arm, layer, step, sigma: noise scale of each perturbed layer, mean over finished seeds."""
    prefix = "sigma/layer_"
    keys = [key for key in frame.steps.columns if key.startswith(prefix)]
    lines = over_steps(frame, keys)
    lines = lines[(lines["series"] == FINISHED_SERIES) & (lines["step"] > 0)]
    data = lines.assign(layer=lines["metric"].str.removeprefix(prefix).astype(int))
    data = data.rename(columns={"mean": "sigma"})[["arm", "layer", "step", "sigma", "n"]]
    return data.reset_index(drop=True)


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Lay out a panel per perturbed arm, all on one colour scale."""
    arms = list(dict.fromkeys(data["arm"]))
    columns = min(len(arms), 3)
    rows = -(-len(arms) // columns)
    figure = Figure(figsize=(3.9 * columns + 1.2, 2.7 * rows + 0.3))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    low, high = float(data["sigma"].min()), float(data["sigma"].max())
    if (
        high - low < 1e-3 * high
    ):  # σ that nothing trains: a scale of rounding errors would show a pattern
        low, high = 0.0, 2 * high
    for arm, panel in zip(arms, grid):
        mesh = draw_panel(data[data["arm"] == arm], panel, low=low, high=high)
        panel.set_title(arm, color=looks[arm].colour)
        panel.set(xlabel="step", ylabel="layer")
        panel.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.grid(visible=False)
    for panel in grid[len(arms) :]:
        panel.set_visible(False)
    figure.colorbar(
        mesh, ax=list(grid[: len(arms)]), label="σ", aspect=12 * rows, fraction=0.03, pad=0.01
    )
    return figure


def draw_panel(data: pd.DataFrame, axes: Axes, *, low: float, high: float) -> QuadMesh:
    """Heat map of one arm's σ over steps and layers; returns what a colour bar is made from."""
    table = data.pivot_table(index="layer", columns="step", values="sigma")
    return axes.pcolormesh(
        table.columns, table.index, table.to_numpy(), vmin=low, vmax=high, cmap="cividis",
        shading="nearest", rasterized=True,
    )  # fmt: skip


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say first and last sigma of every arm."""
    parts = []
    for arm, part in data.groupby("arm", sort=False):
        first, last = (
            part[part["step"] == step]["sigma"] for step in (part["step"].min(), part["step"].max())
        )
        parts.append(f"{arm} {range_text(first)} at the start, {range_text(last)} at the end")
    return f"Heat map of σ over steps and layers. Lowest to highest layer: {'; '.join(parts)}."


FIGURE: Final = ReportFigure(
    name="sigma",
    section="Noise",
    title="σ per layer",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        "Noise scale of each perturbed layer at the end of each step, mean over finished seeds; all panels "
        "on one colour scale. Layers without noise are blank."
    ),
    absent="no finished cell has noise in its layers.",
)
