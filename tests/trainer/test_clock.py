"""What a step cost: the peak of memory is the step's own: what was freed before it started does not count."""

import subprocess
import sys

import pytest

PEAKS = """
import numpy as np
from alpkit.trainer.clock import PeakMemory

def peak(mib):
    memory = PeakMemory()
    held = np.ones(mib << 20, np.uint8)  # touched, so resident
    del held
    return memory.metrics()["memory/peak"] * 1024

print(peak(8), peak(400), peak(8))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_steps_peak_forgets_the_steps_before():
    """In a process of its own: a trainer in this one would have told the C library to keep what is freed."""
    asked = subprocess.run(
        [sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True
    )
    small, large, again = map(float, asked.stdout.split())
    assert large - small == pytest.approx(392, abs=60)  # MiB
    assert again < large - 300
