r"""Grade responses that put their final answer into \boxed{}: by value, right or wrong.

Only the last \boxed{} counts, and only if it is in the last `tail` words: an answer that is followed by a long
ramble is none. What counts as equal is in `alpkit.tasks.math.equivalence`.
"""

import re
from collections.abc import Sequence

from alpkit.tasks.grading import Scores
from alpkit.tasks.math.literals import literal
from alpkit.tasks.math.pool import Pool

_BOX = re.compile(r"\\boxed\s*\{")
_LONGEST = 1000
"""Characters of an answer; a longer box is no final answer."""
_REMEMBERED = 100_000


class MathGrader:
    """Scores 1 for the right value in the last box, 0 for anything else."""

    def __init__(self, *, tail: int, deadline: float) -> None:
        self.tail = tail
        self._pool = Pool(deadline=deadline)
        self._known: dict[tuple[str, str], float] = {}

    def grade(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        boxed = [(gold, last_boxed(response, tail=self.tail)) for gold, response in pairs]
        # Responses of one group often agree: each pair is checked once.
        asked = {
            (gold, answer): None
            for gold, answer in boxed
            if answer is not None and (gold, answer) not in self._known
        }
        verdicts = self._pool.run([{"gold": gold, "answer": answer} for gold, answer in asked])
        found = dict(zip(asked, verdicts, strict=True))
        if len(self._known) + len(found) > _REMEMBERED:
            self._known.clear()
        rewards = []
        for gold, answer in boxed:
            verdict = found.get((gold, answer or ""), {})
            reward = float(verdict.get("right", self._known.get((gold, answer or ""), 0.0)))
            rewards.append(reward if answer is not None else 0.0)
        self._known |= {pair: float(v["right"]) for pair, v in found.items() if "right" in v}
        counts = {
            kind: sum(kind in found.get((gold, answer or ""), {}) for gold, answer in boxed)
            for kind in ("timeout", "error")
        }
        return Scores(rewards, counts["timeout"], counts["error"])

    def faults(self, golds: Sequence[str]) -> dict[int, str]:
        # Most answers are plain numbers, which need no process.
        unclear = {i: gold for i, gold in enumerate(golds) if literal(gold) is None}
        verdicts = self._pool.run([{"gold": gold} for gold in unclear.values()])
        told = {
            i: verdict.get("error")
            or verdict.get("fault")
            or ("it takes too long to read" if "timeout" in verdict else "")
            for i, verdict in zip(unclear, verdicts, strict=True)
        }
        return {i: str(why) for i, why in told.items() if why}

    def close(self) -> None:
        """End the grading processes; the next check starts new ones."""
        self._pool.close()


def last_boxed(response: str, *, tail: int) -> str | None:
    r"""Give the content of the last \boxed{} whose braces close, in the last `tail` words; None without one."""
    words = list(re.finditer(r"\S+", response))
    if len(words) > tail:
        response = response[words[-tail].start() :]
    starts = list(_BOX.finditer(response))
    if not starts:
        return None
    begin = starts[-1].end()
    depth, at = 1, begin
    while at < len(response):
        if response[at] == "\\":
            at += 2
            continue
        depth += {"{": 1, "}": -1}.get(response[at], 0)
        if depth == 0:
            content = response[begin:at].strip()
            return content if content and len(content) <= _LONGEST else None
        at += 1
    return None
