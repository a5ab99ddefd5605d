"""From a step's tokens to metrics: awkward tables have numbers or gaps, never an exception."""

import math

import numpy as np
import pytest
import torch

from alpkit.config import ObjectiveConfig
from alpkit.objective import LossOutput
from alpkit.trainer.batches import TokenTable
from alpkit.trainer.measure import ReceiptWatch, engine_part, ratio_part, read_out, receipt_part
from tests.support.crossings import Crossings

OBJECTIVE = ObjectiveConfig()


def table(n=200, **columns):
    rng = np.random.default_rng(0)
    rollout = -torch.tensor(rng.exponential(1.0, n), dtype=torch.float32)
    return TokenTable(
        {
            "update": torch.arange(n) * 4 // max(n, 1),
            "sample": torch.arange(n) // 5,
            "token": torch.arange(n),
            "logp_rollout": rollout,
            "logp_old": rollout + torch.tensor(rng.normal(0, 0.01, n), dtype=torch.float32),
            "logp_train": rollout + torch.tensor(rng.normal(0, 0.05, n), dtype=torch.float32),
            "entropy": torch.ones(n),
            "weight": torch.ones(n),
            **columns,
        }
    )


def ratios(tokens, objective):
    return read_out([ratio_part(tokens, objective)])


def test_a_broken_log_prob_is_counted_and_spoils_nothing():
    broken = table()
    broken["logp_train"][17] = math.nan
    kept = torch.arange(200) != 17
    clean = TokenTable({name: values[kept] for name, values in broken.columns.items()})
    found, expected = ratios(broken, OBJECTIVE), ratios(clean, OBJECTIVE)
    assert found["ratio/raw/token/nonfinite"] == 1
    assert found["ratio/raw/product/nonfinite"] == 1  # its response has no product
    assert found["ratio/mismatch/token/nonfinite"] == 0
    for key in ("kl/k1", "kl/k3", "kl/k3_max", "train/entropy", "ratio/raw/token/p98"):
        assert found[key] == pytest.approx(expected[key], rel=1e-12), key


@pytest.mark.parametrize("n", [0, 1, 7])
def test_few_tokens_or_none_are_no_exception(n):
    found = read_out([ratio_part(table(n), OBJECTIVE), engine_part(table(n))])
    assert all(math.isfinite(value) for value in found.values())
    assert ("kl/k3" in found) == (n > 0)


def test_nothing_finite_leaves_the_count_alone():
    found = ratios(table(logp_train=torch.full((200,), math.nan)), OBJECTIVE)
    assert found["ratio/raw/token/nonfinite"] == 200
    assert "kl/k3" not in found
    assert "ratio/raw/token/width" not in found
    assert found["ratio/mismatch/token/std"] > 0


def test_all_weights_zero_leave_no_applied_weights():
    weighted = ObjectiveConfig.model_validate({"weight": {"action": "mask", "upper": 2.0}})
    found = ratios(table(weight=torch.zeros(200)), weighted)
    assert [key for key in found if "applied" in key] == ["ratio/applied/token/nonfinite"]


def test_a_watch_that_goes_on_remembers_what_acted():
    def idle(watch, steps):
        return [bound for _ in range(steps) for bound in watch.count_idle({})]

    whole, first = ReceiptWatch(OBJECTIVE.bounds), ReceiptWatch(OBJECTIVE.bounds)
    acted = {"receipt/clipped_low": 0.1, "receipt/clipped_high": 0.1}
    assert whole.count_idle(acted) == first.count_idle(acted) == []
    second = ReceiptWatch(OBJECTIVE.bounds)
    second.restore(first.state)
    assert idle(second, 30) == idle(whole, 30) == []
    assert idle(ReceiptWatch(OBJECTIVE.bounds), 30) != []


def test_a_diagnostic_step_crosses_to_the_host_once():
    """All that a step measures of its tokens and its receipts, in one transfer."""
    tokens = table(logp_perturbed=table()["logp_train"] + 0.01)
    output = LossOutput(
        *[torch.zeros(())] * 4,
        {name: torch.tensor(3.0) for name in ("tokens", "nonfinite", "advantage", "sequences")},
    )
    weighted = ObjectiveConfig.model_validate({"weight": {"action": "mask", "upper": 2.0}})
    with Crossings() as crossings:
        parts = [receipt_part([output, output], weighted), ratio_part(tokens, weighted)]
        metrics = read_out([*parts, engine_part(tokens)])
    assert crossings.calls == ["cpu"]
    alone = [receipt_part([output, output], weighted), ratio_part(tokens, weighted)]
    separately = read_out(alone[:1]) | read_out(alone[1:]) | read_out([engine_part(tokens)])
    assert metrics == separately
    assert {"kl/k3_max", "mismatch/prob_gap", "ratio/applied/token/ess"} <= metrics.keys()
    assert metrics["receipt/weight_removed"] == 0
