"""What a step cost: the peak of memory is the step's own: what was freed before it started does not count."""

import sys

import numpy as np
import pytest

from alpkit.trainer.clock import PeakMemory

MIB = 1 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_steps_peak_forgets_the_steps_before():
    def peak(mib):
        memory = PeakMemory()
        held = np.ones(mib * MIB, np.uint8)  # touched, so resident
        del held
        return memory.metrics()["memory/peak"] * 1024

    small, large, again = peak(8), peak(400), peak(8)
    assert large - small == pytest.approx(392, abs=60)  # MiB
    assert again < large - 300
