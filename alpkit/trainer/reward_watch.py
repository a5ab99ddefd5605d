"""Says when a run earns nothing: prompts of which no response is solved, for several steps in a row.

A group without a reward has no advantage, so such a run trains on nothing.
"""

from collections.abc import Mapping
from typing import Final

UNSOLVED: Final = 0.95
"""Share of prompts without a solved response above which a step counts."""
PATIENCE: Final = 5
"""Steps in a row after which it is said."""


class RewardWatch:
    """Counts the steps in a row on which nearly no prompt was solved."""

    def __init__(self) -> None:
        self.unsolved = 0

    def look(self, metrics: Mapping[str, float]) -> str | None:
        """Take one step's metrics; returns what to say when the patience has just run out."""
        share = metrics["reward/solved_none"]
        self.unsolved = self.unsolved + 1 if share > UNSOLVED else 0
        if self.unsolved != PATIENCE:
            return None
        return (
            f"no response to {share:.0%} of the prompts earned a reward, for {PATIENCE} steps now "
            "(reward/solved_none), so there is next to nothing to learn from; look at the responses in the records: "
            "the task may be too hard for this model, or its prompt not what the model knows"
        )
