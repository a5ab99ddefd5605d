"""pass@1 and pass@k on held-out items, over steps and at the end."""

from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alpkit.analysis.figures.over_steps import FINISHED_SERIES, SEEDS, over_steps, summarise
from alpkit.analysis.figures.panels import Looks, legend_below, line, of_arm, span_lines
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.seeds.scores import last_evaluations
from alpkit.analysis.text import row_dicts


def numbers(frame: GridFrame) -> pd.DataFrame:
    """Give columns arm, k, when, step, mean, low, high, n, interval: pass@k on held-out items.

    Every k up to the samples where the cells kept how often each item was solved; else k = 1 (avg@k, its
    unbiased estimate from the same samples) and k. when `step`: the evaluation of that step; `last`: each
    cell's last evaluations (`seeds.scores`). Intervals over seeds as in `over_steps`.
    """
    curves = frame.pass_curves.rows
    if not curves.empty:
        return _every_k(curves, frame)
    known = frame.finished["eval_k"].dropna()
    if known.nunique() != 1:  # arms that were evaluated at different k are not one figure
        return pd.DataFrame(columns=["arm", "k", "when", "step", "mean"])
    keys = {"eval/avg_at_k": 1, "eval/pass_at_k": int(known.iloc[0])}
    lines = over_steps(frame, keys)
    lines = lines[lines["series"] == FINISHED_SERIES]
    lines = lines.assign(when="step", k=lines["metric"].map(keys))
    parts = [lines.drop(columns=["metric", "series"])]
    by_cell = dict(iter(frame.steps.groupby("cell_id")))
    for key, k in keys.items():
        if key in frame.steps.columns:
            ends = [
                (arm, last_evaluations(steps.set_index("step")[key], int(steps["step"].max())))
                for arm, cell in zip(frame.finished["arm"], frame.finished["cell_id"])
                if (steps := by_cell.get(cell)) is not None
            ]
            last = summarise(
                pd.DataFrame(ends, columns=["arm", "value"]).dropna(), ["arm"], "value"
            )
            parts.append(last.assign(k=k, when="last"))
    columns = ["arm", "k", "when", "step", "mean", "low", "high", "n", "interval"]
    return pd.concat(parts, ignore_index=True)[columns]


def _every_k(curves: pd.DataFrame, frame: GridFrame) -> pd.DataFrame:
    by_step = summarise(curves, ["arm", "k", "step"], "value").assign(when="step")
    last_step = {str(cell): int(own.max()) for cell, own in frame.steps.groupby("cell_id")["step"]}
    ends = [
        (arm, k, last_evaluations(own.set_index("step")["value"], last_step[str(cell)]))
        for (cell, arm, k), own in curves.groupby(["cell_id", "arm", "k"], sort=False)
    ]
    ending = pd.DataFrame(ends, columns=["arm", "k", "value"]).dropna()
    last = summarise(ending, ["arm", "k"], "value").assign(when="last")
    columns = ["arm", "k", "when", "step", "mean", "low", "high", "n", "interval"]
    return pd.concat([by_step, last], ignore_index=True)[columns]


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """pass@1 and pass@k over steps, and both at the end of training, over k."""
    ks = sorted(data["k"].unique())
    figure = Figure(figsize=(3.6 * (len(ks) + 1), 3.7))
    panels = figure.subplots(1, len(ks) + 1, sharey=True)
    for k, panel in zip(ks, panels):
        part = data[(data["k"] == k) & (data["when"] == "step")]
        for arm, own in part.groupby("arm", sort=False):
            line(own, panel, looks, str(arm))
        panel.set_title(f"pass@{k}")
        panel.set_xlabel("step")
    draw_panel(data[data["when"] == "last"], panels[-1], looks)
    panels[-1].set_title("last evaluations")
    panels[0].set_ylabel("share of items solved")
    span_lines(panels[0], data["mean"])
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(max(low, -0.02), min(high, 1.02))
    legend_below(figure, panels[:1], looks)
    return figure


def draw_panel(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """Share of items that one of k samples solves, over k, with the interval over seeds."""
    ks = sorted(data["k"].unique())
    for arm in dict.fromkeys(data["arm"]):
        look, part = looks[arm], data[data["arm"] == arm].sort_values("k")
        with of_arm(axes, arm):
            axes.plot(
                part["k"], part["mean"], marker="o", color=look.colour, ls=look.line, lw=1.2, ms=4
            )
            axes.fill_between(
                part["k"], part["low"], part["high"], color=look.colour, alpha=0.1, lw=0
            )
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlabel("k")
    return axes


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say both ends of every arm's curve."""
    last = data[data["when"] == "last"]
    ends = [
        f"{row['arm']} {row['mean']:.3f} at k = {row['k']}"
        for row in row_dicts(last.sort_values("k", kind="stable"))
    ]
    return (
        f"pass@k over steps and at the end, one line per arm. Last evaluations: {'; '.join(ends)}."
    )


FIGURE: Final = ReportFigure(
    name="passk",
    section="Results",
    title="pass@k",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        f"Held-out items; pass@1 is estimated from the same k samples. Right: mean of each cell's last "
        f"evaluations. What pass@k keeps above pass@1 is diversity. {SEEDS}"
    ),
    absent="no finished cell was evaluated with samples, or the arms were with different k.",
)
