"""Rewrite docs/performance.md, a section at a time: `make bench`, or `python benchmarks/bench.py --only noise`.

Every section is a script that prints Markdown; what it printed goes into the page at once, with the date and
the load, so that a stopped run loses one section. Sections of the present commit are skipped, `--fresh` takes all
of them anew. `--small` is for trying the scripts: its numbers go to the terminal, never into the page. A
machine that does anything else at the time measures itself.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "performance.md"
HERE: Final = Path(__file__).parent


class Section(NamedTuple):
    """A part of the page: its script, and how it is called in earnest and for a try."""

    name: str
    title: str
    script: str
    full: tuple[str, ...] = ()
    small: tuple[str, ...] = ()


SECTIONS: Final = (
    Section("startup", "Start-up", "startup.py", small=("--repeats", "1")),
    Section(
        "trainer",
        "One optimizer step beside TRL's",
        "trainer.py",
        ("--pairs", "3", "--micro", "2", "4"),
        ("--pairs", "1", "--rows", "2", "--steps", "1", "--micro", "2"),
    ),
    Section(
        "step",
        "A whole step: sampling and training",
        "step.py",
        small=("--pairs", "1", "--prompts", "1", "--group", "2", "--tokens", "8", "--no-vllm"),
    ),
    Section("sampler", "vLLM's sampler and the push of weights", "sampler.py", small=("--small",)),
    Section("head", "The LM head", "head.py", small=("--tokens", "64", "--pairs", "1")),
    Section(
        "noise",
        "The perturbation",
        "perturbation.py",
        ("--dry", "--steps", "3"),
        ("--dry", "--steps", "1", "--rows", "1", "--tokens", "64"),
    ),
    Section(
        "statistics",
        "Statistics and records",
        "diagnostics.py",
        ("--dry", "--items", "10000000", "--steps", "2"),
        ("--dry", "--items", "1000000", "--steps", "1"),
    ),
    Section("tracking", "Tracking", "tracking.py", small=("--steps", "20")),
    Section("scaling", "Growing", "scaling.py", small=("--small",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [section.name for section in SECTIONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--fresh", action="store_true", help="also what this commit has measured")
    parser.add_argument("--small", action="store_true", help="try the scripts; writes nothing")
    options = parser.parse_args()
    commit, failed = present_commit(), []
    for section in SECTIONS:
        if section.name not in options.only:
            continue
        text = PAGE.read_text() if PAGE.exists() else ""
        if not (options.fresh or options.small) and f"commit {commit}" in part(text, section.name):
            print(f"{section.name}: measured on this commit already", flush=True)
            continue
        begin, load = time.time(), os.getloadavg()[0]
        body = measured(section, small=options.small)
        took = time.time() - begin
        print(
            f"{section.name}: {'failed' if body is None else 'done'} after {took:.0f} s", flush=True
        )
        if body is None:
            failed.append(section.name)
        elif options.small:
            print(body)
        else:
            PAGE.write_text(with_part(text, section, stamped(section, body, commit, load, took)))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the page keeps what it had of them")


def measured(section: Section, *, small: bool) -> str | None:
    """Run a section's script; None where it fails, after what it said."""
    command = [
        sys.executable,
        str(HERE / section.script),
        *(section.small if small else section.full),
    ]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        print(done.stdout[-2000:])
        return None
    # Scripts with a page of their own print it whole: their title is the section's here.
    return re.sub(r"\A# .*\n+", "", done.stdout.strip()) or None


def stamped(section: Section, body: str, commit: str, load: float, took: float) -> str:
    """Put title, command and circumstances around what a script printed."""
    shown = " ".join(["python", f"benchmarks/{section.script}", *section.full])
    said = f"Measured {datetime.now(UTC):%Y-%m-%d}, commit {commit}, load {load:.1f} before, {took:.0f} s."
    return f"## {section.title}\n\n`{shown}`. {said}\n\n{body}\n"


def part(text: str, name: str) -> str:
    """Find what the page has of a section; empty if nothing."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end {name} -->\n", text, re.DOTALL)
    return found[1] if found else ""


def with_part(text: str, section: Section, body: str) -> str:
    """Make the page anew with one section replaced, the others as they are, in their order."""
    parts = {known.name: part(text, known.name) for known in SECTIONS} | {section.name: body}
    kept = [f"<!-- {n} -->\n{body}<!-- end {n} -->\n" for n, body in parts.items() if body]
    return "\n".join([head(), *kept])


def head() -> str:
    """Say what was measured on which machine, in which versions."""
    cores = len(os.sched_getaffinity(0))
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "mlflow"))
    return f"""# Performance

Written by `make bench` ({platform.machine()}, {processor()}, {cores} cores; Python
{platform.python_version()}, {packages}). Sections are measured apart and say when; comparisons alternate their
sides and give medians. Run it on a machine that does nothing else.

**The unperturbed forward** (`time/clean_forward`) is asked to be 5 % of a step at most, and is more. The first of a
step's updates has it for nothing: nothing has moved, so that it is log pi_old to the bit. The other updates are
not asked for fewer rows by default, because extremes depend on how many tokens there are: with log ratios of a
Student's t of 3 degrees, the largest of a third of 2,000 tokens is 0.69 of the largest of all, 6.7 times the standard
error of its mean over 50 steps. `ratio/raw/*/max`, `kl/k3_max` and the spikes of a perturbed arm would then be compared
with other arms' that see every token. `diagnostics.every: 3` asks on a third of the steps, in all arms alike.
"""


def processor() -> str:
    """Give the processor's name as Linux tells it."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or "unknown processor"


def present_commit() -> str:
    """Give the commit of the working tree, `-dirty` with changes of its own, the page's left out."""
    command = ["git", "status", "--porcelain", "--", ".", f":!{PAGE.relative_to(ROOT)}"]
    dirty = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    command = ["git", "log", "-1", "--format=%h", "--", ".", f":!{PAGE.relative_to(ROOT)}"]
    commit = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return f"{commit or 'unknown'}{'-dirty' if dirty else ''}"


if __name__ == "__main__":
    main()
