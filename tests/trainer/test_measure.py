"""From a step's tokens to metrics: awkward tables have numbers or gaps, never an exception."""

import math

import numpy as np
import pytest
import torch

from alpkit.config import ObjectiveConfig
from alpkit.objective import LossOutput
from alpkit.trainer.batches import TokenTable
from alpkit.trainer.measure import (
    ReceiptWatch,
    advantage_part,
    engine_part,
    ratio_part,
    read_out,
    receipt_part,
)
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


def seven_tokens(**changes):
    """Seven tokens of two responses with their mu, pi_theta, entropy; the first token of each is taken out."""
    mu = torch.tensor([0.50, 0.10, 0.90, 0.02, 0.30, 0.60, 0.05], dtype=torch.float64)
    pi = torch.tensor([0.75, 0.15, 0.55, 0.05, 0.09, 0.85, 0.03], dtype=torch.float64)
    columns = {
        "update": torch.zeros(7, dtype=torch.long),
        "sample": torch.tensor([0, 0, 0, 0, 1, 1, 1]),
        "token": torch.arange(7),
        "logp_rollout": mu.log(),
        "logp_train": pi.log(),
        "entropy": torch.tensor([1.2, 0.8, 0.3, 2.0, 1.5, 0.6, 1.9]),
        "keep": torch.tensor([False, True, True, True, False, True, True]),
        "advantage": torch.tensor([1.0, 1.0, 1.0, 1.0, -0.5, 0.0, 0.0]),
    }
    return TokenTable({**columns, **changes})


def test_k3_over_entropy_and_of_kept_and_removed_tokens():
    """Worked by hand from the seven probabilities; kept and removed are DPPO-TV's at 0.2."""
    found = ratios(seven_tokens(), OBJECTIVE)
    assert found["kl/k3"] == pytest.approx(0.222789, abs=1e-6)
    assert found["kl/k3_over_entropy"] == pytest.approx(0.187895, abs=1e-6)
    assert found["kl/k3_kept"] == pytest.approx(0.192203, abs=1e-6)
    assert found["kl/k3_removed"] == pytest.approx(0.299254, abs=1e-6)


def test_what_no_token_has_is_absent_and_never_zero():
    whole = ratios(seven_tokens(keep=torch.ones(7, dtype=torch.bool)), OBJECTIVE)
    assert "kl/k3_removed" not in whole
    assert whole["kl/k3_kept"] == pytest.approx(whole["kl/k3"])
    sure = ratios(seven_tokens(entropy=torch.zeros(7)), OBJECTIVE)
    assert "kl/k3_over_entropy" not in sure
    assert sure["train/entropy"] == 0
    assert "train/entropy" not in ratios(
        seven_tokens(entropy=torch.full((7,), torch.nan)), OBJECTIVE
    )


def test_advantages_are_counted_by_their_sign():
    found = read_out([advantage_part(seven_tokens())])
    assert found == {
        "advantage/positive": pytest.approx(4 / 7),
        "advantage/negative": pytest.approx(1 / 7),
        "advantage/zero": pytest.approx(2 / 7),
    }
    assert (
        read_out([advantage_part(seven_tokens(advantage=torch.empty(0), token=torch.empty(0)))])
        == {}
    )
