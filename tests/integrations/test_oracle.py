"""The plug-ins inside the peers themselves, each in a process with `.oracle` on its path (`make oracle`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
pytestmark = pytest.mark.oracle


def run(*command):
    path = os.pathsep.join((str(ROOT / ".oracle"), str(ROOT)))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_verls_registry_runs_our_losses():
    assert len(run(str(ROOT / "tests" / "support" / "verl_registered.py")).splitlines()) == 7


def test_trls_trainer_runs_our_objective():
    """tests/integrations/test_trl.py is skipped where trl cannot be imported; here it must not be."""
    out = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", str(HERE / "test_trl.py"))
    assert "skipped" not in out
    assert "passed" in out
