"""K1 and K3 per arm: how far the policy is from the sampler."""

from typing import Final

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.per_arm import scores_per_arm

COLUMNS: Final = ("k1_mean", "k1_max", "k3_mean", "k3_max")


def divergence_table(frame: GridFrame) -> Table:
    """K1 and K3, a row per arm."""
    caption = (
        "The unperturbed π_θ against µ, in nats, for every arm: mean over all training steps, and "
        "the largest step. Then over seeds."
    )
    return scores_per_arm(frame, "divergence", "Distance to the sampler", caption, COLUMNS)
