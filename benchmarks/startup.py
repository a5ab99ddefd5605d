"""How long commands take before they do anything: `alpkit --help`, `--version`, `plan`, and what they import.

python benchmarks/startup.py [--repeats 5]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from measuring import table

ROOT: Final = Path(__file__).parents[1]
COMMANDS: Final = {
    "alpkit --help": (["--help"], 0.5),
    "alpkit plan experiments/quickstart.yaml": (
        ["plan", str(ROOT / "experiments/quickstart.yaml")],
        2.0,
    ),
    "alpkit plan experiments/ablation.yaml": (
        ["plan", str(ROOT / "experiments/ablation.yaml")],
        2.0,
    ),
    "alpkit methods": (["methods"], 2.0),
}
HEAVY: Final = ("torch", "transformers", "mlflow", "pandas")
RUN: Final = (
    "import sys; sys.argv = ['alpkit', *sys.argv[1:]]\nfrom alpkit.cli import main\n"
    "try:\n    main()\nfinally:\n"
    f"    sys.stderr.write(' '.join(sorted(set({HEAVY!r}) & sys.modules.keys())) + '\\n')"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (arguments, bound) in COMMANDS.items():
            took, imported = [], ""
            for _ in range(options.repeats):
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", RUN, *arguments],
                    capture_output=True,
                    text=True,
                    check=True,
                    cwd=folder,
                )
                took.append(time.perf_counter() - start)
                imported = done.stderr.splitlines()[-1].strip()
            rows.append([f"`{name}`", statistics.median(took), f"<= {bound:g}", imported or "none"])
    print(table(["command", "seconds", "asked", f"of {', '.join(HEAVY)} imported"], rows))


if __name__ == "__main__":
    main()
