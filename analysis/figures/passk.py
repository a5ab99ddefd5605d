"""pass@1 and pass@k on held-out items, over steps and at the end."""

from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alpkit.analysis.figures.over_steps import FINISHED_SERIES, over_steps, summarise
from alpkit.analysis.figures.panels import Looks, legend_below, line, of_arm, span_lines
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading.evaluations import PassCurves
from alpkit.analysis.seeds.scores import last_evaluations
from alpkit.analysis.text import row_dicts
from alpkit.diagnostics.passes import reach_over_sets
from alpkit.metrics import EVALUATIONS, scored

COLUMNS: Final = ["arm", "k", "when", "step", "mean", "low", "high", "n", "interval"]
OVER_SEEDS: Final = ["low_seeds", "high_seeds"]


def numbers(frame: GridFrame) -> pd.DataFrame:
    """Give columns arm, k, when, step, mean, low, high, n, interval: pass@k on held-out items.

    Every k up to the samples where the cells kept how often each item was solved, with 95 % intervals
    clustered by problem (`interval` is `problems`) and those over seeds beside them (low_seeds, high_seeds);
    else k = 1 (avg@k, its unbiased estimate from the same samples) and k, with intervals over seeds as in
    `over_steps`. when `step`: the evaluation of that step; `last`: each cell's last evaluations.
    """
    if not frame.pass_curves.rows.empty:
        return _every_k(frame.pass_curves, frame)
    known = frame.finished["eval_k"].dropna()
    if known.nunique() != 1:  # arms that were evaluated at different k are not one figure
        return pd.DataFrame(columns=COLUMNS)
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
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def _every_k(curves: PassCurves, frame: GridFrame) -> pd.DataFrame:
    last_step = {str(cell): int(own.max()) for cell, own in frame.steps.groupby("cell_id")["step"]}
    parts = []
    for arm, own in curves.rows.groupby("arm", sort=False):
        cells = {str(cell): rows for cell, rows in own.groupby("cell_id", sort=False)}
        for step in sorted(set(own["step"])):
            rows = own[own["step"] == step]
            at = {str(cell): [step] for cell in rows["cell_id"].unique()}
            parts.append(_over_problems(curves, rows, at).assign(arm=arm, when="step", step=step))
        ends = {
            cell: scored(sorted(set(rows["step"])), last_step[cell], at_least=EVALUATIONS)
            for cell, rows in cells.items()
        }
        final = pd.concat([rows[rows["step"].isin(ends[cell])] for cell, rows in cells.items()])
        if len(final):  # else nothing was evaluated but the model before training
            parts.append(_over_problems(curves, final, ends).assign(arm=arm, when="last"))
    return pd.concat(parts, ignore_index=True).reindex(columns=[*COLUMNS, "problems", *OVER_SEEDS])


def _over_problems(
    curves: PassCurves, rows: pd.DataFrame, steps: Mapping[str, Sequence[int]]
) -> pd.DataFrame:
    """pass@k of some cells at their steps: mean, and the intervals over problems and over seeds."""
    of_cells = rows.groupby(["cell_id", "k"], sort=False)["value"].mean().reset_index()
    found = summarise(of_cells, ["k"], "value").drop(columns="interval")
    found = found.rename(columns={"low": OVER_SEEDS[0], "high": OVER_SEEDS[1]})
    problems = curves.problems(steps)
    reach = reach_over_sets(problems)[found["k"].to_numpy(int) - 1]
    return found.assign(
        low=found["mean"] - reach,
        high=found["mean"] + reach,
        interval="problems",
        problems=sum(map(len, problems)),
    )


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
    """Share of items that one of k samples solves, over k, with its interval."""
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
        "Held-out items; pass@1 is estimated from the same k samples. Right: mean of each cell's last "
        "evaluations. What pass@k keeps above pass@1 is diversity. Lines: mean over finished seeds. Bands: 95 % "
        "interval over problems (a problem's seeds are one value); the CSV has the seeds' too. Where runs kept "
        "no counts by item (interval t or range), bands are over seeds."
    ),
    absent="no finished cell was evaluated with samples, or the arms were with different k.",
)
