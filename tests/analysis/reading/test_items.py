"""A recorded step becomes tokens and whole responses."""

import numpy as np

from alpkit.analysis.reading.items import step_items
from alpkit.analysis.reading.records import Batch


def test_interleaved_responses_and_lost_tokens():
    mu = np.array([-1.0, -1.0, -2.0, np.nan])
    columns = {
        "sample": np.array([7, 3, 7, 3]),
        "prompt": np.array([1, 0, 1, 0]),
        "turn": np.zeros(4, int),
        "logp_rollout": mu,
        "logp_old": mu,
        "logp_train": np.array([-0.9, -1.2, -1.7, -1.0]),
        "logp_perturbed": np.full(4, np.nan),
    }
    found = step_items(Batch(4, np.zeros(4, int), columns))
    np.testing.assert_allclose(found.levels["product"].log_ratio, [-0.2, 0.4])
    np.testing.assert_allclose(found.levels["geometric"].log_ratio, [-0.2, 0.2])
    np.testing.assert_allclose(found.levels["product"].log_mu, [-1.0, -1.5])
    assert found.levels["product"].cluster.tolist() == [0, 1]
    assert found.response.tolist() == [0, 1, 1]
