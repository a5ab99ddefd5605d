"""Reward and held-out accuracy per arm."""

from typing import Final

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.per_arm import scores_per_arm
from alpkit.metrics import EVALUATIONS, WINDOW

COLUMNS: Final = (
    "final_reward",
    "eval_greedy",
    "eval_greedy_change",
    "eval_avg_at_k",
    "eval_avg_at_k_change",
)


def results_table(frame: GridFrame) -> Table:
    """Reward and held-out accuracy, a row per arm."""
    caption = (
        f"Finished cells only. Final reward: mean of the last {WINDOW} steps. Evaluations: mean of "
        f"those in the last {WINDOW} steps, and of the last {EVALUATIONS} where fewer fall there. "
        "Change: against the same cell's evaluation before training."
    )
    return scores_per_arm(frame, "results", "Reward and accuracy", caption, COLUMNS)
