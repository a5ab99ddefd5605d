"""The numbers of figures with a point per cell or per arm: ablations of the noise, score against tail."""

from typing import Final, Literal

import numpy as np
import pandas as pd
from scipy import stats

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.pairs import subsets
from alpkit.analysis.plotted import summarise

Axis = Literal["layers", "site"]

ENDPOINTS: Final = {
    "eval_greedy": "greedy accuracy",
    "final_reward": "final reward",
    "k3_mean": "K3, nats",
    "width": "P98 − P2, token, nats",
    "khat_right": "k̂ of the token ratio",
}
HEAVINESS: Final = ("khat_right", "width", "k3_mean")
NO_NOISE: Final = "no noise"


def ablation_frame(frame: GridFrame, axis: Axis) -> pd.DataFrame:
    """group, arm, setting, endpoint, mean, low, high, n, interval: arms that differ in `axis` alone.

    setting: the layer subset or site; `no noise` for the arms' controls. Empty unless the grid has such
    arms. Intervals over finished seeds as in `plotted.over_steps`.
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


def layers_frame(frame: GridFrame) -> pd.DataFrame:
    """`ablation_frame` by layer subset."""
    return ablation_frame(frame, "layers")


def sites_frame(frame: GridFrame) -> pd.DataFrame:
    """`ablation_frame` by site."""
    return ablation_frame(frame, "site")


def score_frame(frame: GridFrame) -> pd.DataFrame:
    """arm, seed, heaviness, x, score, y, rho, n: every finished cell's last score against its mean tail.

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
