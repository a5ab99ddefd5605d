"""The main result over several tasks: runs × tasks, drawn anew within every task (rliable's strata)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from alpkit.analysis.frames import Config, GridFrame
from alpkit.analysis.pairs import Pair, control_of_arms
from alpkit.analysis.seeds.rliable import Estimate, FloatArray, improvement, iqm_interval
from alpkit.analysis.seeds.scores import SCORES
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.main import COLUMNS
from alpkit.analysis.text import DASH, with_bounds
from alpkit.config.grid.comparisons import flat


class Method(NamedTuple):
    """Arms that are the same but for their task; `arms`: task -> arm."""

    name: str
    arms: dict[str, str]


def methods_over_tasks(configs: Mapping[str, Config]) -> list[Method]:
    """Find every method that the grid runs on two tasks or more, in the arms' order."""
    groups: dict[str, dict[str, str]] = {}
    for arm, config in configs.items():
        rest = repr(flat({k: v for k, v in config.items() if k != "task"}))
        groups.setdefault(rest, {})[repr(config.get("task"))] = arm
    return [
        Method(_common_words(list(arms.values())), dict(sorted(arms.items())))
        for arms in groups.values()
        if len(arms) > 1
    ]


def tasks_table(frame: GridFrame, pairs: Sequence[Pair]) -> Table:
    """Lay out a row per method and score; only seeds that finished on all of its tasks."""
    controls = control_of_arms(pairs)
    methods = methods_over_tasks(frame.arm_configs)
    owner = {arm: method for method in methods for arm in method.arms.values()}
    data, shown = [], []
    for method in methods:
        first = next(iter(method.arms.values()))
        control = owner.get(controls.get(first, ""))
        for column in COLUMNS:
            scores = _scores(frame, method, column)
            if not scores.size:
                continue
            centre = iqm_interval(scores)
            over = _over(frame, scores, method, control, column)
            runs, tasks = scores.shape
            data.append(
                {"method": method.name, "score": column, "seeds": runs, "tasks": tasks}
                | {"iqm": centre.value, "low": centre.low, "high": centre.high}
                | {"control": control.name if control else ""}
                | {"over_control": over.value, "over_low": over.low, "over_high": over.high}
            )
            shown.append(
                {
                    "method": method.name,
                    "score": SCORES[column].label,
                    "seeds × tasks": f"{runs} × {tasks}",
                    "IQM [95 %]": with_bounds(*centre, SCORES[column].digits),
                    "control": control.name if control else DASH,
                    "P(> control) [95 %]": with_bounds(*over, 2),
                }
            )
    caption = (
        "The same method on every task of the grid: interquartile mean over seeds and tasks together, "
        "P(improvement) averaged over tasks; intervals: stratified bootstrap, seeds drawn anew within "
        "every task. Too narrow with few seeds: no test."
    )
    return Table("tasks", "Over all tasks", caption, pd.DataFrame(data), pd.DataFrame(shown))


def _scores(frame: GridFrame, method: Method, column: str) -> FloatArray:
    """Make the matrix of seeds × tasks, of the seeds that have all tasks."""
    done = frame.finished
    parts = [done[done["arm"] == arm].set_index("seed")[column] for arm in method.arms.values()]
    return pd.concat(parts, axis=1, join="inner").dropna().sort_index().to_numpy(float)


def _over(
    frame: GridFrame, scores: FloatArray, method: Method, control: Method | None, column: str
) -> Estimate:
    if control is not None and list(control.arms) == list(method.arms):
        theirs = _scores(frame, control, column)
        if theirs.size:
            return improvement(scores, theirs)
    return Estimate(np.nan, np.nan, np.nan)


def _common_words(names: Sequence[str]) -> str:
    """Give an arm's name without what names its task: `grpo digits=3` and `grpo digits=4` are grpo."""
    others = [set(name.split()) for name in names[1:]]
    kept = [word for word in names[0].split() if all(word in other for other in others)]
    return " ".join(kept) or names[0]
