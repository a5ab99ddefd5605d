"""Colour says the method, line style the layer subset, marker the site; the same in every figure.

Colours are matplotlib's petroff10 (chosen for colour-blind readers), given to the paper's methods by name
and not by order, so that an arm keeps its colour in a grid where others are missing; any other arm takes
the next of a second list.
"""

from contextlib import AbstractContextManager
from itertools import cycle
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib.style
import pandas as pd

STYLE_FILE: Final = Path(__file__).with_name("style.mplstyle")

METHOD_COLOURS: Final[dict[str, str]] = {
    "grpo": "#3f90da",
    "gspo": "#832db6",
    "token-tis": "#ffa90e",
    "seq-mis": "#a96b59",
    "seq-bypass": "#717581",
    "seq-alp": "#bd1f01",
    "token-bypass": "#94a4a2",
    "token-alp": "#e76300",
    "paper/gspo": "#92dadd",
}
OTHER_COLOURS: Final = ("#b9ac70", "#009e73", "#cc79a7", "#0b3c8c", "#7f5200", "#86c8dd")
"""For arms of any other method, in the grid's order; a seventh begins again."""

Line = str | tuple[int, tuple[float, ...]]
"""A line style of matplotlib: its sign, or an offset with the lengths of dashes and gaps."""
LAYER_LINES: Final[dict[str, Line]] = {
    "all": "-",
    "early": "--",
    "middle": "-.",
    "late": ":",
}
OTHER_LINE: Final[Line] = (0, (6, 1.5, 1, 1.5, 1, 1.5))

SITE_MARKERS: Final[dict[str, str]] = {
    "layer_input": "o",
    "attention_output": "s",
    "mlp_output": "^",
    "embedding": "D",
    "final_hidden": "v",
    "logits": "P",
}


class Look(NamedTuple):
    """Colour, line and marker of one arm, the same in every figure."""

    colour: str
    line: Line
    marker: str | None


def context() -> AbstractContextManager[None]:
    """Apply the house style inside a `with`; global settings come back afterwards."""
    style: AbstractContextManager[None] = matplotlib.style.context(STYLE_FILE)
    return style


def method_of(arm: str) -> str:
    """Give the method that an arm's name starts with: `seq-alp layers=early` is seq-alp; '' if none."""
    fits = [m for m in METHOD_COLOURS if arm == m or arm.startswith((f"{m} ", f"{m}-", f"{m},"))]
    return max(fits, key=len, default="")


def looks(cells: pd.DataFrame) -> dict[str, Look]:
    """Give every arm of `cells` its look, from its method's name and its perturbation."""
    found: dict[str, Look] = {}
    others = cycle(OTHER_COLOURS)
    by_name: dict[str, str] = {}
    for arm, rows in cells.groupby("arm", sort=False):
        first = rows.iloc[0]
        site, layers = first.get("site"), first.get("layers")
        perturbed = isinstance(site, str)
        # What an axis adds to an arm's name shows as line and marker, not as another colour.
        name = method_of(str(arm)) or str(arm).split(" ")[0]
        if name not in by_name:
            by_name[name] = METHOD_COLOURS.get(name) or next(others)
        found[str(arm)] = Look(
            by_name[name],
            LAYER_LINES.get(str(layers), OTHER_LINE) if perturbed else "-",
            SITE_MARKERS.get(str(site)) if perturbed else None,
        )
    return found
