"""Ablations of the noise: arms that differ in their layers alone, or in their site alone."""

from collections.abc import Sequence
from typing import Final, Literal

import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.seeds.verdicts import LABELS, Verdict
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.per_arm import interval_columns, interval_texts, score_intervals
from alpkit.analysis.text import DASH
from alpkit.config.grid.comparisons import REFERENCES, subsets

SHOWN: Final = ("eval_greedy", "final_reward", "khat_right", "k3_mean", "k3_peak", "width")
_WORDS: Final[dict[Literal["layers", "site"], tuple[str, str, str]]] = {
    "layers": ("layers", "Layer subsets", "all layers"),
    "site": ("sites", "Sites", "the layer input"),
}


def subset_table(
    frame: GridFrame, kind: Literal["layers", "site"], found: Sequence[Verdict]
) -> Table:
    """Lay out a row per arm; groups of arms that are the same but for `kind` stand together."""
    name, title, reference = _WORDS[kind]
    data, shown = [], []
    groups = subsets(frame.arm_configs, kind)
    for number_, group in enumerate(groups, start=1):
        first = next((arm for arm, value in group.items() if value == REFERENCES[kind]), None)
        # The reference on top; the others as the grid lists them.
        for arm, value in sorted(group.items(), key=lambda item: item[0] != first):
            own = frame.finished[frame.finished["arm"] == arm]
            intervals = score_intervals(own, SHOWN)
            beyond = [LABELS[v.endpoint] for v in found if v[:2] == (arm, first) and v.beyond_noise]
            raw: dict[str, object] = {"group": number_, kind: value, "arm": arm, "n": len(own)}
            for column, interval in intervals.items():
                raw |= interval_columns(column, interval)
            data.append(raw | {"beyond": ";".join(beyond)})
            row = {"group": str(number_)} if len(groups) > 1 else {}
            row |= {kind: value, "arm": arm, "n": str(len(own)), **interval_texts(intervals)}
            tested = any(v[:2] == (arm, first) and v.tested for v in found)
            against = ", ".join(beyond) or ("nothing" if tested else "not tested")
            shown.append(row | {"beyond noise": DASH if arm == first else against})
    caption = (
        f"Arms that differ in {kind} alone; of different groups, in more. Mean over seeds [95 % t "
        "interval], both points with two. Last column: endpoints on which the arm differs from its "
        f"group's arm with {reference} beyond seed noise (same tests as above)."
    )
    return Table(name, title, caption, pd.DataFrame(data), pd.DataFrame(shown))
