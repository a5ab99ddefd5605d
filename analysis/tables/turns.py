"""Responses of several turns: turns and tool calls per arm, and the ratio's statistics turn by turn."""

from typing import Final

import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.reading.folders import section
from alpkit.analysis.reading.items import TURN_LEVELS
from alpkit.analysis.reading.pooled import SIDES
from alpkit.analysis.seeds.scores import last_steps
from alpkit.analysis.seeds.verdicts import over_seeds
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.per_arm import interval_columns
from alpkit.analysis.tables.tails import tail_row
from alpkit.analysis.text import interval_text, number, row_dicts, with_bounds
from alpkit.config.environment import ToolMathConfig, not_isolated

SHOWN: Final = {
    "turns/mean": ("turns", 2),
    "turns/answered": ("answered", 3),
    "turns/void": ("void", 3),
    "tool/calls": ("calls", 2),
    "tool/failed": ("failed calls", 3),
    "tool/stopped": ("stopped calls", 3),
    "turns/inserted": ("inserted tokens", 1),
}
"""Metrics of the table, with their headings and digits."""


def turns_table(frame: GridFrame) -> Table:
    """Turns and tool calls at the end of training, a row per arm; no rows for a grid of single turns."""
    data, shown = [], []
    several = "turns/mean" in frame.steps.columns
    for arm in frame.arms if several else ():
        own = frame.finished[frame.finished["arm"] == arm]
        raw: dict[str, object] = {"arm": arm, "n": len(own)}
        texts = {"arm": arm, "n": str(len(own))}
        for key, (label, digits) in SHOWN.items():
            interval = over_seeds(
                pd.Series([_at_end(frame, c, key) for c in own["cell_id"]], dtype=float)
            )
            raw |= interval_columns(key, interval)
            texts[label] = interval_text(interval, digits)
        data.append(raw)
        shown.append(texts)
    caption = (
        "Mean over the last 10 steps of training, then over finished seeds [95 % t interval from three on]. Turns: "
        "of the model, per response. Answered: responses that ended with an answer; void: with a turn that led "
        "nowhere, as shares of all. Calls: per response; failed: ended in an error of their own; stopped: at a limit "
        "of the sandbox, as shares of calls. Inserted: tokens per response that the environment put in, which are in "
        "no loss, ratio or statistic."
    )
    return Table(
        "tool_calls", "Turns and tool calls", caption, pd.DataFrame(data), pd.DataFrame(shown)
    )


def _at_end(frame: GridFrame, cell_id: str, key: str) -> float:
    if key not in frame.steps.columns:
        return float("nan")
    own = frame.steps[frame.steps["cell_id"] == cell_id].set_index("step")
    return last_steps(own[key], int(own.index.max()))


def by_turn_frame(frame: GridFrame) -> pd.DataFrame:
    """A row per arm × level × turn × side, columns as in `tail_frame`; turns count from 1."""
    return pd.DataFrame(
        [
            {"turn": turn + 1, **tail_row(arm, level, side, pool)}
            for arm in frame.arms
            for (level, turn), pool in frame.pooled[arm].turns.items()
            for side in SIDES
        ]
    )


def by_turn_table(frame: GridFrame) -> Table:
    """Width, effective sample size and tail index of the ratio, a row per arm and turn."""
    tails = by_turn_frame(frame)
    rows = []
    for (arm, turn), part in tails.groupby(["arm", "turn"], sort=False) if len(tails) else ():
        sides = {(row["level"], row["side"]): row for row in row_dicts(part)}
        token, inverse = (sides["token", side] for side in SIDES)
        whole, below = (sides["product", side] for side in SIDES)
        rows.append(
            {
                "arm": str(arm),
                "turn": f"{turn}",
                "tokens": f"{token.number('n'):,.0f}",
                "P2": number(-inverse.number("p98"), 3),
                "P98": number(token.number("p98"), 3),
                "P98 − P2": number(token.number("p98") + inverse.number("p98"), 3),
                "ESS": number(token.number("ess"), 3),
                "k̂ [90 %]": with_bounds(
                    token.number("khat"), token.number("khat_low"), token.number("khat_high"), 2
                ),
                "k̂ of 1/ratio": number(inverse.number("khat"), 2),
                "turns": f"{whole.number('n'):,.0f}",
                "P98 − P2, turn": number(whole.number("p98") + below.number("p98"), 2),
                "ESS, turn": number(whole.number("ess"), 3),
            }
        )
    caption = (
        "The unperturbed π_θ over µ, split by the turn of the model that a token belongs to; from the token records, "
        "pooled over finished seeds and recorded steps. Up to k̂ of 1/ratio per token; the last three per turn of a "
        "response: the product over its tokens. Quantiles are of the log ratio, in nats; k̂ with its 90 % bootstrap "
        "over prompts. A later turn is sampled behind what the environment put in, and by fewer responses; the CSV "
        f"has all statistics of the tails' table, at the levels {' and '.join(TURN_LEVELS)}."
    )
    return Table("ratio_by_turn", "The ratio turn by turn", caption, tails, pd.DataFrame(rows))


def open_to(frame: GridFrame, arm: str) -> str:
    """Say what an arm's tool was not isolated from; empty where it was, or where there is none."""
    for cell_id in frame.cells[frame.cells["arm"] == arm]["cell_id"]:
        environment = section(frame.configs.get(cell_id) or {}, "environment")
        if environment.get("sandbox") == "weak":
            return f"environment.sandbox: weak: {not_isolated(ToolMathConfig(sandbox='weak'))}."
    return ""
