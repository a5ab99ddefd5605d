"""Three responses whose numbers were worked out independently, in float64."""

import numpy as np
import pytest


@pytest.fixture
def fixture_x():
    rollout = np.array([[-1, -0.5, -2, -0.1], [-3, -0.2, -0.7, -1], [-4, -1.5, -0.3, -9]])
    old = np.array([[-1.02, -0.49, -2.1, -0.11], [-2.8, -0.21, -0.72, -1], [-5, -1.9, -0.31, -9]])
    train = np.array([[-0.9, -0.4, -1.7, -0.1], [-2.2, -0.15, -0.65, -1], [-6.5, -2, -0.29, -9]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]], bool)
    sequence = np.repeat(np.arange(3), 4).reshape(3, 4)[mask]
    return {
        "mismatch": (old - rollout)[mask],
        "bypass": (train - rollout)[mask],
        "rollout": rollout[mask],
        "sequence": sequence,
    }
