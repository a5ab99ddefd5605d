"""The factors of the ratio add up."""

import numpy as np

from alpkit.analysis.figures import factors


def test_factors_of_recorded_steps_add_up(frame):
    data = factors.numbers(frame)
    shares = data[data["quantity"] == "tail_share"]
    total = shares.groupby(["arm", "step"])["value"].sum()
    np.testing.assert_allclose(total, 1.0)
    # Planted: the old policy stands half way between mu and pi.
    grpo = shares[(shares["arm"] == "grpo") & (shares["factor"] == "mismatch")]
    np.testing.assert_allclose(grpo["value"], 0.5, atol=1e-3)
    assert set(shares.loc[shares["factor"] == "perturbation", "arm"]) == {"seq-alp"}
