"""Width of the log ratio and effective sample size per arm."""

from typing import Final

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.per_arm import scores_per_arm

COLUMNS: Final = ("width", "width_product", "ess", "ess_product")


def spread_table(frame: GridFrame) -> Table:
    """Width of the log ratio and effective sample size, a row per arm."""
    caption = (
        "The same ratio, mean over all training steps. P98 − P2: width of the log ratio in nats, per "
        "token and per response (product over its tokens). ESS: effective share of the batch, 1 on "
        "policy."
    )
    return scores_per_arm(frame, "spread", "Spread of the ratio", caption, COLUMNS)
