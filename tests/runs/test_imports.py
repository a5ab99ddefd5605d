"""Who reads a run need not wait for torch: only checkpoints hold tensors."""

import subprocess
import sys
from pathlib import Path

import pytest

import alpkit.runs

MODULES = sorted(
    f"alpkit.runs.{path.stem}"
    for path in Path(alpkit.runs.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "checkpoint")
)


@pytest.mark.parametrize(
    "modules",
    [[*MODULES, "alpkit.runs.records"], ["alpkit.analysis"], ["alpkit.launch"]],
    ids=["runs", "analysis", "launch"],
)
def test_importing_it_imports_no_torch(modules):
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
