r"""Mathematics: a question in text and LaTeX, the answer in the last \boxed{}, graded by value.

The builtin problems were written for alpkit and need no network; published sets are read from the hub by name
and are for evaluation only. What counts as equal: `alpkit.tasks.math.equivalence` and docs/tasks.md.

Usage: `task: {name: math, levels: [1, 2]}`.
"""

import json
from importlib.resources import files
from typing import TypedDict

from alpkit.config.tasks import FileConfig, MathConfig
from alpkit.tasks.file import load as load_file
from alpkit.tasks.listed import ListedTask, Row, listed
from alpkit.tasks.math.grader import MathGrader

PROBLEMS = "problems.jsonl"

HUB: dict[str, dict[str, object]] = {
    "math-500": {"path": "HuggingFaceH4/MATH-500", "split": "test", "prompt": "problem"},
    "aime24": {"path": "HuggingFaceH4/aime_2024", "prompt": "problem"},
    "aime25": {"path": "math-ai/aime25", "split": "test", "prompt": "problem"},
    "amc23": {"path": "math-ai/amc23", "split": "test", "prompt": "question"},
    "minerva": {"path": "math-ai/minervamath", "split": "test", "prompt": "question"},
    "olympiadbench": {"path": "math-ai/olympiadbench", "split": "test", "prompt": "question", "answer": "final_answer"},
    "gsm8k": {"path": "openai/gsm8k", "subset": "main", "split": "test", "prompt": "question", "answer_after": "####"},
}  # fmt: skip
"""Published sets by name: where they are and how their columns are called."""


class Problem(TypedDict):
    """A builtin problem; `check` computes its answer again."""

    id: str
    level: int
    topic: str
    problem: str
    answer: str
    check: str


def load(config: MathConfig, *, check: bool = False) -> ListedTask:
    """Build the task of a configuration section."""
    if config.set != "builtin":
        source = FileConfig(
            name="file",
            **HUB[config.set],
            grader="math",
            held_out="all",
            tail=config.tail,
            deadline=config.deadline,
        )
        return load_file(source, check=check)
    rows = [
        Row(problem["problem"], problem["answer"], f"{PROBLEMS}: {problem['id']}")
        for problem in problems()
        if problem["level"] in config.levels
    ]
    # Their answers are read by the tests: not again before every run.
    return listed("math", rows, MathGrader(tail=config.tail, deadline=config.deadline), "hash")


def problems() -> list[Problem]:
    """Read the builtin problems: id, level, topic, problem, answer, check."""
    text = files("alpkit.tasks.math").joinpath(PROBLEMS).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
