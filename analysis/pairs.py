"""List the comparisons of a loaded grid, each with what the two arms' configurations differ in.

Which arms are compared, and which of them are tested, is `alpkit.config.grid.comparisons`: the same rules
that `alpkit plan` prints before a run.
"""

from collections.abc import Iterable
from typing import NamedTuple

from alpkit.analysis.frames import GridFrame
from alpkit.config.grid.comparisons import Kind, compare_arms, differing, ingredients


class Pair(NamedTuple):
    """An arm and what it is compared with; `differs` names the ingredients that are not the same.

    `tested`: among the tests of the grid's file (all of them, unless it names some).
    """

    arm: str
    control: str
    kind: Kind
    differs: tuple[str, ...]
    tested: bool = True

    @property
    def confounded(self) -> bool:
        """Whether more than one ingredient changed, so that no single one can take the credit."""
        return len(self.differs) > 1


def pairs(frame: GridFrame) -> list[Pair]:
    """List every comparison of the grid, in the arms' order; at most one per arm and kind."""
    configs = {arm: frame.arm_configs.get(arm, {}) for arm in frame.arms}
    axes = {
        str(arm): value if isinstance(value, dict) else {}
        for arm, value in zip(frame.cells["arm"], frame.cells["axes"])
    }
    found = compare_arms(
        configs,
        controls=frame.grid.controls,
        axes=axes,
        reference=frame.grid.reference,
        tests=frame.grid.tests,
    )
    return [
        Pair(
            c.arm,
            c.control,
            c.kind,
            # A subset's noise differs in one field of it, which says more than `noise`.
            (c.kind,)
            if c.kind in ("layers", "site")
            else _differs(configs[c.arm], configs[c.control]),
            c.tested,
        )
        for c in found
    ]


def control_of_arms(compared: Iterable[Pair]) -> dict[str, str]:
    """Give each arm's control: the arm without its noise, else the reference, GRPO, or the first of its axis."""
    controls: dict[str, str] = {}
    for pair in compared:
        if pair.kind not in ("layers", "site"):
            controls.setdefault(pair.arm, pair.control)
    return controls


def _differs(ours: dict[str, object], theirs: dict[str, object]) -> tuple[str, ...]:
    # A configuration that cannot be read differs in nothing that is known.
    return ingredients(differing(ours, theirs)) if ours and theirs else ()
