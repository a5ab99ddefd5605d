import subprocess
import sys
from pathlib import Path

import pytest

from alpkit.config import expand, load_ablation

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments").rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_committed_grid_expands_and_says_what_it_asks(path: Path) -> None:
    grid = expand(load_ablation(path))
    assert grid.cells
    assert grid.question.endswith("?")
    assert grid.name == path.stem
    header = path.read_text().split("name:")[0]
    for word in ("# Question:", "# Cost:", "# Look for:"):
        assert word in header


def test_quickstart() -> None:
    grid = expand(load_ablation(ROOT / "experiments/quickstart.yaml"))
    assert grid.arms == ("grpo", "gspo", "token-tis", "seq-mis", "seq-bypass", "seq-alp")
    assert {cell.seed for cell in grid.cells} == {0, 1}
    assert grid.controls == {"seq-alp": "seq-bypass"}
    assert grid.notes == ()
    assert (grid.launch.launcher, grid.launch.jobs) == ("processes", 2)


def test_config_imports_nothing_heavy() -> None:
    code = (
        "import sys, alpkit.config as c; "
        "c.expand(c.load_ablation(sys.argv[1])); "
        "print([m for m in ('torch', 'transformers', 'mlflow', 'pandas', 'numpy', 'vllm') "
        "if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(ROOT / "experiments/quickstart.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
