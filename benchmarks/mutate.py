"""Break one operator, bound, sign or mask of alpkit/objective at a time; a test must notice.

`make mutate` (or `python benchmarks/mutate.py [--minutes 60]`) writes docs/mutation-objective.md. Each
mutant lives in a copy of the package, so that the checkout is never touched. A mutant that no test
notices is a survivor: it is killed by a better test, or listed in `EQUIVALENT` with the reason.
"""

import argparse
import ast
import copy
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = Path("alpkit/objective")
TESTS = [
    "tests/objective/test_correction.py",
    "tests/objective/test_loss.py",
    "tests/objective/test_equivalences.py",
    "tests/objective/test_verl.py",
]
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.GtE,
    ast.Gt: ast.LtE,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {"lt": "gt", "gt": "lt", "eq": "ne", "minimum": "maximum", "maximum": "minimum", "amax": "amin",
         "amin": "amax", "below": "above", "above": "below", "low": "high", "high": "low",
         "negative": "positive", "positive": "negative", "logp": "logp_old", "logp_old": "logp",
         "upper": "lower", "lower": "upper", "any": "all", "accepted": "counted", "counted": "accepted",
         "keep": "accepted", "expm1": "exp"}  # fmt: skip
EQUIVALENT = ROOT / "docs" / "mutation-objective-equivalent.txt"


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Yield (what was changed, mutated source) for every place of one module."""
    tree = ast.parse(source)
    places = [node for node in ast.walk(tree) if not _typing(node)]
    for i, node in enumerate(places):
        for label, change in _changes(node):
            fresh = copy.deepcopy(tree)
            target = [n for n in ast.walk(fresh) if not _typing(n)][i]
            change(target)
            yield f"{node.lineno}: {label}", ast.unparse(ast.fix_missing_locations(fresh))  # type: ignore[attr-defined]


def _typing(node: ast.AST) -> bool:
    return not hasattr(node, "lineno") or isinstance(node, ast.alias | ast.arg)


def _changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not _annotation(node):
        swap = SWAPS[type(node.op)]
        yield f"{ast.unparse(node)} -> {swap.__name__}", lambda n: setattr(n, "op", swap())
    if isinstance(node, ast.BoolOp):
        swap = SWAPS[type(node.op)]
        yield f"{ast.unparse(node)} -> {swap.__name__}", lambda n: setattr(n, "op", swap())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        swap = SWAPS[type(node.ops[0])]
        yield f"{ast.unparse(node)} -> {swap.__name__}", lambda n: setattr(n, "ops", [swap()])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert):
        yield f"{ast.unparse(node)} -> unsigned", _drop_sign
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    ):
        yield f"{node.value} -> {node.value + 1}", lambda n: setattr(n, "value", n.value + 1)
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield (
            f"{ast.unparse(node)} -> .{NAMES[node.attr]}",
            lambda n: setattr(n, "attr", NAMES[n.attr]),
        )
    if isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
        yield f"{node.id} -> {NAMES[node.id]}", lambda n: setattr(n, "id", NAMES[n.id])


def _annotation(node: ast.BinOp) -> bool:
    """`A | None` in a signature is no computation."""
    text = ast.unparse(node)
    return isinstance(node.op, ast.BitOr) and ("None" in text or "Tensor" in text)


def _drop_sign(node: ast.UnaryOp) -> None:
    """-x becomes +x; ~mask becomes (mask & mask)."""
    if isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    else:
        node.op, node.operand = ast.Invert(), ast.UnaryOp(ast.Invert(), node.operand)


def noticed(copy_of: Path, seconds: float, *, show: bool = False) -> bool:
    """Whether the tests fail on the package in `copy_of` (or run past `seconds`); `show`: print how."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        *TESTS,
    ]
    env = os.environ | {
        "PYTHONPATH": str(copy_of),
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(command, cwd=copy_of, env=env, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in (0, 1):  # not a failed test: the run itself is broken
        raise SystemExit(done.stdout.decode()[-2000:] + done.stderr.decode()[-2000:])
    if show and done.returncode:
        print(done.stdout.decode()[-3000:])
    return done.returncode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=int, default=1, help="try every n-th mutant")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    known = set(EQUIVALENT.read_text().splitlines()) if EQUIVALENT.exists() else set()
    tried, survivors = 0, []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for name in ("alpkit", "tests", "pyproject.toml"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, place / name)
        if noticed(place, 600, show=True):
            raise SystemExit("the tests fail without any mutation")
        every = [
            (path, label, text)
            for path in sorted((ROOT / FOLDER).glob("*.py"))
            for label, text in mutants(path.read_text())
        ]
        chosen = every[:: options.every]
        for path, label, text in chosen:
            if time.monotonic() > deadline:
                break
            original = path.read_text()
            (place / FOLDER / path.name).write_text(text)
            tried += 1
            if not noticed(place, 300):
                survivors.append(f"{path.name}:{label}")
                print("survived", survivors[-1], flush=True)
            (place / FOLDER / path.name).write_text(original)
    reasons = dict(line.split("  # ", 1) for line in known if "  # " in line)
    lines = [
        "# Mutants of the objective",
        "",
        f"`make mutate`: {tried} of {len(every)} mutants of `{FOLDER}` tried, {tried - len(survivors)} noticed by",
        f"{', '.join(f'`{t}`' for t in TESTS)}; {len(survivors)} survived.",
        "",
        *(f"- `{s}`: {reasons.get(s, 'no test notices it yet')}" for s in survivors),
    ]
    (ROOT / "docs" / "mutation-objective.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
