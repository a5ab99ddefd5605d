"""Compute every builtin problem's answer again: by counting, by trying out, or with sympy.

    python -m alpkit.tasks.math.check_problems

Each problem carries its computation as a Python expression (`check`) that never mentions the answer. The
result is written as LaTeX and has to be graded as right.
"""

import itertools
import sys

from alpkit.tasks.math import problems
from alpkit.tasks.math.equivalence import equivalent


def computed(check: str) -> str:
    """Evaluate a problem's computation and write the result as an answer."""
    import sympy

    symbols = dict(zip("xyzkta", sympy.symbols("x y z k t a"), strict=True))
    tools = {name: getattr(itertools, name) for name in ("combinations", "permutations", "product")}
    space: dict[str, object] = {}
    exec("from sympy import *", space)
    value = eval(check, space | {"gcd": __import__("math").gcd} | tools | symbols)
    return _written(value)


def _written(value: object) -> str:
    import sympy

    match value:
        case str():
            return value
        case list():
            return ", ".join(map(_written, value))
        case tuple():
            return f"({', '.join(map(_written, value))})"
        case _:
            return str(sympy.latex(value)).replace(r"\log", r"\ln")


def faults() -> list[str]:
    """Compare every gold answer with its computation; give what disagrees."""
    found = []
    for problem in problems():
        answer = computed(problem["check"])
        if not equivalent(problem["answer"], answer):
            found.append(f"{problem['id']}: gold {problem['answer']!r}, computed {answer!r}")
    return found


def main() -> None:
    """Print disagreements; exit status 1 if there are any."""
    found = faults()
    sys.stdout.write(
        "\n".join([*found, f"{len(problems())} problems, {len(found)} disagree"]) + "\n"
    )
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
