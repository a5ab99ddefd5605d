"""Paired differences of every arm to its control, with the test where there are seeds enough for one."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from alpkit.analysis.seeds.verdicts import LABELS, Verdict
from alpkit.analysis.tables import Table
from alpkit.analysis.text import DASH, signed_points


def differences_table(found: Sequence[Verdict]) -> Table:
    """Every seed's difference to the control, and the test where there are seeds enough for one."""
    data = [
        {"arm": v.arm, "control": v.control, "endpoint": v.endpoint, "n": len(v.points)}
        | {"points": ";".join(f"{p:.6g}" for p in v.points), "difference": v.difference}
        | {"low": v.low, "high": v.high, "p": v.p, "p_holm": v.p_holm}
        | {"detectable": v.detectable, "status": v.status}
        for v in found
    ]
    shown = pd.DataFrame(
        [
            {
                "arm − control": f"{v.arm} − {v.control}",
                "endpoint": LABELS[v.endpoint],
                "n": str(len(v.points)),
                "per seed": signed_points(v.points),
                "mean [95 %]": _signed(v),
                "Holm p": _p(v.p_holm),
                "detectable": _p(v.detectable),
            }
            for v in found
        ]
    )
    if found and not any(v.tested for v in found):
        shown = shown.drop(columns=["mean [95 %]", "Holm p", "detectable"])
    caption = (
        "Arm − control, seed by seed (arms of a seed share prompts and draws). Tests: paired t over "
        "seeds from three seeds on, Holm over every tested row. Detectable: the difference that this "
        "spread and n would show four times in five at the strictest Holm level. The intervals are "
        "not adjusted for the number of rows."
    )
    return Table("differences", "Paired differences", caption, pd.DataFrame(data), shown)


def _signed(test: Verdict) -> str:
    if not np.isfinite(test.difference):
        return DASH
    return f"{test.difference:+.3g} [{test.low:+.3g}, {test.high:+.3g}]"


def _p(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else DASH
