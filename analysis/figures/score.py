"""Final score against three measures of tail heaviness, a point per finished cell."""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from alpkit.analysis.figures.panels import Looks, arm_handles, log_ticks, of_arm
from alpkit.analysis.figures.spec import ReportFigure
from alpkit.analysis.frames import GridFrame

HEAVINESS: Final = {
    "khat_right": "k̂ of the token ratio, mean of the run",
    "width": "P98 − P2 of the token log ratio, nats",
    "k3_mean": "K3, mean of the run, nats",
}
SCORES: Final = {"eval_greedy": "greedy accuracy at the end", "final_reward": "reward at the end"}


def numbers(frame: GridFrame) -> pd.DataFrame:
    """Give columns arm, seed, heaviness, x, score, y, rho, n: every finished cell's last score against its mean tail.

    rho: Spearman's rank correlation over the n cells, NaN below four; score is greedy accuracy where
    the grid evaluates, else the final reward.
    """
    done = frame.finished
    score = "eval_greedy" if done["eval_greedy"].notna().any() else "final_reward"
    parts = []
    for name in HEAVINESS:
        cells = done.dropna(subset=[name, score])
        if cells.empty:
            continue
        part = pd.DataFrame(
            {
                "arm": cells["arm"],
                "seed": cells["seed"],
                "heaviness": name,
                "x": cells[name],
                "score": score,
                "y": cells[score],
            }
        )
        parts.append(part.assign(rho=_rank_correlation(part), n=len(part)))
    columns = ["arm", "seed", "heaviness", "x", "score", "y", "rho", "n"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _rank_correlation(part: pd.DataFrame) -> float:
    if len(part) < 4 or part["x"].nunique() < 2 or part["y"].nunique() < 2:
        return float(np.nan)
    return float(stats.spearmanr(part["x"], part["y"]).statistic)


def sheet(data: pd.DataFrame, looks: Looks) -> Figure:
    """Lay out a panel per measure of heaviness, the same score on every y axis."""
    names = list(dict.fromkeys(data["heaviness"]))
    figure = Figure(figsize=(3.6 * len(names) + 0.4, 3.7))
    grid = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for name, panel in zip(names, grid):
        part = data[data["heaviness"] == name]
        draw_panel(part, panel, looks)
        panel.set_xlabel(HEAVINESS[name])
        rho, n = part["rho"].iloc[0], part["n"].iloc[0]
        known = f"Spearman ρ = {rho:+.2f}, " if np.isfinite(rho) else ""
        panel.set_title(f"{known}{n} cells", fontsize=9, fontweight="normal")
        if name == "k3_mean" and (part["x"] > 0).all() and part["x"].max() > 5 * part["x"].min():
            panel.set_xscale("log")
            log_ticks(panel.xaxis)
    grid[0].set_ylabel(SCORES[data["score"].iloc[0]])
    handles = arm_handles(dict.fromkeys(data["arm"]), looks)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
    return figure


def draw_panel(data: pd.DataFrame, axes: Axes, looks: Looks) -> Axes:
    """Score against heaviness, a point per cell."""
    for arm, part in data.groupby("arm", sort=False):
        look = looks[str(arm)]
        with of_arm(axes, str(arm)):
            axes.plot(part["x"], part["y"], look.marker or "o", color=look.colour, ms=5, alpha=0.85)
    return axes


def alt(frame: GridFrame, data: pd.DataFrame) -> str:
    """Say the rank correlations."""
    known = data.dropna(subset=["rho"]).groupby("heaviness", sort=False)["rho"].first()
    parts = [f"{name} {rho:+.2f}" for name, rho in known.items()]
    rho = f" Spearman's ρ: {'; '.join(parts)}." if parts else ""
    return f"Final score against three measures of tail heaviness, a point per finished cell.{rho}"


FIGURE: Final = ReportFigure(
    name="score",
    section="All cells",
    title="Final score against tail heaviness",
    numbers=numbers,
    sheet=sheet,
    alt=alt,
    caption=(
        "One point per finished cell. Arms differ in more than their tails, so a slope across arms is no "
        "cause; look for it within one colour."
    ),
    absent="no finished cell has both a score and a tail.",
)
