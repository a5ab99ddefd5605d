"""Break one operator, bound, sign or mask of alpkit/objective at a time; a test must notice.

`make mutate` (or `python benchmarks/mutate.py [--minutes 60] [--module loss]`) writes
docs/mutation-objective.md. A parent imports torch, pytest and hypothesis once; every mutant is a fork that
imports the changed module from a copy of the package and runs the tests up to the first failure. A mutant
that no test notices is a survivor: a better test kills it, or `mutate_equivalent.toml` says why none can;
an entry there that fits no survivor any more is an error.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mutants import Mutant, mutants

ROOT = Path(__file__).parents[1]
FOLDER = Path("alpkit/objective")
KNOWN = Path(__file__).with_name("mutate_equivalent.toml")
PAGE = ROOT / "docs" / "mutation-objective.md"
SHAPES = [
    "-p",
    "jaxtyping._pytest_plugin",
    "--jaxtyping-packages=alpkit.objective,beartype.beartype",
]
LOSS, CORRECTION, OUTPUTS, REGIONS, CENTERING, ENTROPY, TURNS, EQUIVALENCES, PEERS = (
    f"tests/objective/test_{name}.py"
    for name in ("loss", "correction", "outputs", "regions", "centering", "entropy", "turn_advantage",
                 "equivalences", "verl")
)  # fmt: skip
# What notices most and costs least comes first; only what survives it meets the rest, with shapes checked.
LAST_STAGE = [
    *SHAPES,
    LOSS,
    CORRECTION,
    OUTPUTS,
    REGIONS,
    CENTERING,
    ENTROPY,
    TURNS,
    EQUIVALENCES,
    PEERS,
]
TESTS = [[LOSS, CORRECTION, OUTPUTS, "-k", "not paper"], LAST_STAGE]
OWN_TESTS = {
    "sketch": [[*SHAPES, "tests/objective/test_sketch.py", OUTPUTS, "-k", "sketch"]],
    "centering": [[CENTERING], LAST_STAGE],
    "entropy": [[ENTROPY], LAST_STAGE],
    "rejection": [[REGIONS, CORRECTION], LAST_STAGE],
    "surrogate": [[REGIONS, LOSS, "-k", "not paper"], LAST_STAGE],
}
PYTEST = [
    "-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin",
    "-o", "addopts=", "-m", "not oracle and not slow", "--import-mode=importlib",
]  # fmt: skip
LAST = Path(tempfile.gettempdir()) / "alpkit-mutants.json"
TOO_LONG = 120.0  # seconds; the whole subset takes under 15


class Known(NamedTuple):
    """A mutant that computes the same, found by its text so that it cannot rot silently."""

    module: str
    line: str
    change: str


class Result(NamedTuple):
    """Counts per module by outcome, and the survivors."""

    outcomes: Counter[tuple[str, str]]
    survivors: list[tuple[str, Mutant]]
    tried: set[Known]
    reused: int  # noticed by an earlier run and not run again


def main() -> None:
    options = arguments()
    known = read_known()
    every = [
        (path.stem, mutant)
        for path in sorted((ROOT / FOLDER).glob("*.py"))
        for mutant in mutants(path.read_text())
    ]
    if absent := set(known) - {key(module, mutant) for module, mutant in every}:
        raise SystemExit(f"{KNOWN.name} lists what is no mutant any more: {sorted(absent)}")
    chosen = [m for m in every if not options.module or m[0] in options.module][:: options.every]
    outcomes = json.loads(LAST.read_text()) if options.resume and LAST.exists() else {}
    result = try_all(chosen, time.monotonic() + 60 * options.minutes, outcomes)
    minutes = sum(os.times()[:4]) / 60
    LAST.write_text(json.dumps(outcomes))
    print(f"{sum(result.outcomes.values())} of {len(every)}, {minutes:.1f} minutes of one core")
    if len(chosen) == len(every):
        PAGE.write_text(page(result, known, len(every), minutes))
    judge(result, known)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="by the clock")
    parser.add_argument("--module", nargs="*", help="only these modules; the page is not written")
    parser.add_argument("--every", type=int, default=1, help="only every n-th; no page either")
    parser.add_argument("--resume", action="store_true", help="only what was not killed last time")
    return parser.parse_args()


def judge(result: Result, known: dict[Known, str]) -> None:
    """Exit with an error where a survivor has no reason, or a reason no survivor."""
    survivors = {key(module, mutant) for module, mutant in result.survivors}
    for module, mutant in result.survivors:
        reason = known.get(key(module, mutant), "no test notices it")
        print(f"survived {module}:{mutant.number}: {mutant.change} ({reason})")
    if killed := (set(known) & result.tried) - survivors:
        raise SystemExit(f"{KNOWN.name} lists what a test notices: {sorted(killed)}")
    if survivors - set(known):
        raise SystemExit("some mutants survive without a reason")


def read_known() -> dict[Known, str]:
    entries = tomllib.loads(KNOWN.read_text())["equivalent"] if KNOWN.exists() else []
    return {Known(e["module"], e["line"], e["change"]): e["reason"] for e in entries}


def key(module: str, mutant: Mutant) -> Known:
    return Known(module, mutant.line, mutant.change)


def try_all(chosen: list[tuple[str, Mutant]], deadline: float, before: dict[str, str]) -> Result:
    """Run every mutant until the deadline, in a copy of the package; raises where the tests fail unchanged.

    What `before` knows to be noticed is not run again; the rest is added to it.
    """
    result = Result(Counter(), [], set(), 0)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for name in ("alpkit", "tests"):
            ignore = shutil.ignore_patterns("__pycache__", "assets")
            shutil.copytree(ROOT / name, place / name, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", place)
        warm_up(place)
        for stages in (TESTS, *OWN_TESTS.values()):
            if outcome(stages, show=True) != "survived":
                raise SystemExit("the tests fail without any mutation")
        # From here on nothing may be cached: a mutant is often as long and as old as its original.
        sys.dont_write_bytecode = True
        shutil.rmtree(place / FOLDER / "__pycache__", ignore_errors=True)
        for module, mutant in chosen:
            if time.monotonic() > deadline:
                break
            name = f"{module} {hashlib.sha256(mutant.source.encode()).hexdigest()}"
            found = before.get(name, "survived")
            if found == "survived":
                path = place / FOLDER / f"{module}.py"
                original = path.read_text()
                path.write_text(mutant.source)
                found = before[name] = outcome(OWN_TESTS.get(module, TESTS))
                path.write_text(original)
            else:
                result = result._replace(reused=result.reused + 1)
            result.outcomes[module, found] += 1
            result.tried.add(key(module, mutant))
            if found == "survived":
                result.survivors.append((module, mutant))
                print(f"{module}:{mutant.number}: {mutant.change}", flush=True)
    return result


def warm_up(place: Path) -> None:
    """Import all that the tests need from the copy in `place`, but for alpkit.objective itself."""
    os.chdir(place)
    sys.path.insert(0, str(place))
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    import _hypothesis_pytestplugin  # noqa: F401
    import beartype  # noqa: F401
    import hypothesis.strategies  # noqa: F401
    import jaxtyping._pytest_plugin  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import torch.distributed.tensor  # torch.testing imports it late, and sympy with it

    import alpkit.config
    import alpkit.diagnostics

    torch.set_num_threads(1)
    assert Path(alpkit.config.__file__).is_relative_to(place)
    assert not any(name.startswith("alpkit.objective") for name in sys.modules)


def outcome(stages: list[list[str]], *, show: bool = False) -> str:
    """killed, timeout or survived: what the tests make of the copy as it is now."""
    found = (forked(tests, show=show) for tests in stages)
    return next((end for end in found if end != "survived"), "survived")


def forked(tests: list[str], *, show: bool) -> str:
    """Run `tests` in a fork and say how it ended."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        run_tests(tests, show=show)
    deadline = time.monotonic() + TOO_LONG
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def run_tests(tests: list[str], *, show: bool) -> None:
    """Run pytest and leave the process with its status; never returns."""
    status = 1
    try:
        if not show:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
        import pytest
        from hypothesis import settings

        settings.register_profile("mutate", derandomize=True, database=None)
        settings.load_profile("mutate")
        status = pytest.main([*PYTEST, *tests])
    except BaseException:  # a fork must end here, whatever happened: it would go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(int(status))


def page(result: Result, known: dict[Known, str], total: int, minutes: float) -> str:
    """The survivors with their reasons, and what was tried of each module."""
    counts = result.outcomes
    tried = sum(counts.values())
    earlier = (
        f"{result.reused} of them were noticed by an earlier run and not run again (`--resume`)."
    )
    lines = [
        "# Mutants of the objective",
        "",
        f"`make mutate` writes this page: {tried} of {total} mutants of `{FOLDER}`, {minutes:.0f} minutes of one core.",
        *([earlier] if result.reused else []),
        "Each changes one operator, bound, sign, mask, constant or name (`benchmarks/mutants.py`); a test must notice.",
        "",
        "| module | mutants | noticed | never ends | survived |",
        "| --- | --- | --- | --- | --- |",
    ]
    modules = sorted({module for module, _ in counts})
    for module in [*modules, None]:
        of = {
            name: sum(n for (m, o), n in counts.items() if module in (None, m) and o == name)
            for name in ("killed", "timeout", "survived")
        }
        cells = (sum(of.values()), of["killed"], of["timeout"], of["survived"])
        lines.append(f"| {module or 'all'} | " + " | ".join(map(str, cells)) + " |")
    lines += ["", "Survivors, and why no test can notice them:", ""]
    for module, mutant in result.survivors:
        reason = known.get(key(module, mutant), "**no test notices it yet**")
        lines.append(f"- `{module}.py`: `{mutant.change}` in `{mutant.line}`: {reason}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
