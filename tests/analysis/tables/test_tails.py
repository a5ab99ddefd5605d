"""Tails from the records: the planted heavy arm is heavier, and the numbers are the records'."""

import numpy as np
import pytest

from alpkit.diagnostics import fit_khat, hill
from tests.support.recorded_ratios import ratios
from tests.support.synthetic_grid import HEAVY, LIGHT


def test_the_planted_shape_comes_back_with_its_interval(tails):
    heavy = tails.loc[("seq-bypass", "token", "right")]
    assert heavy["khat_low"] < HEAVY < heavy["khat_high"]
    assert heavy["khat"] == pytest.approx(HEAVY, abs=0.15)
    assert heavy["hill"] == pytest.approx(HEAVY, abs=0.15)
    for arm in ("grpo", "gspo", "token-tis", "seq-mis", "seq-alp"):
        light = tails.loc[(arm, "token", "right")]
        assert light["khat_high"] < heavy["khat_low"]
        assert light["hill"] == pytest.approx(LIGHT, abs=0.05)


def test_counts_say_what_was_pooled(tails):
    # 3 seeds x 5 recorded steps x 24 prompts x 4 responses x 5 tokens.
    token = tails.loc[("grpo", "token", "left")]
    assert (token["n"], token["clusters"]) == (7200, 360)
    assert tails.loc[("grpo", "product", "left")]["n"] == 1440


@pytest.mark.parametrize("level", ["token", "product"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_one_pass_says_what_all_rows_in_memory_say(frame, tails, level, side):
    for arm in ("grpo", "seq-alp"):
        d = ratios(frame, arm)[level]["log_ratio"].to_numpy() * (1 if side == "right" else -1)
        row, fit = tails.loc[(arm, level, side)], fit_khat(d, n_boot=0)
        np.testing.assert_allclose(
            row[["p98", "p99", "p999", "max"]].astype(float),
            np.quantile(d, [0.98, 0.99, 0.999, 1.0]),
        )
        assert row["khat"] == pytest.approx(fit.estimate, rel=1e-9)
        assert row["hill"] == pytest.approx(hill(d, fit.n_tail).estimate, rel=1e-9)
        x = np.exp(d)
        assert row["ess"] == pytest.approx(x.sum() ** 2 / (len(x) * (x**2).sum()))
        largest = np.sort(x)[-int(np.ceil(len(x) / 100)) :]
        assert row["top1_share"] == pytest.approx(largest.sum() / x.sum())


def test_geometric_is_the_product_per_token(tails):
    # Every planted response has five tokens.
    quantiles = tails.loc[("grpo", "geometric", "right"), "p98"]
    assert quantiles == pytest.approx(tails.loc[("grpo", "product", "right"), "p98"] / 5)
