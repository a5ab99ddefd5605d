"""The entropy bonus in the loss: by hand, over micro-batches, and where a token is masked or rejected."""

import math

import pytest
import torch
from torch.testing import assert_close

from alpkit.config import ObjectiveConfig
from alpkit.objective import normalizer_sums, policy_loss, whole_batch

LOGP = torch.tensor([[-1.0, -0.5, -2.0], [-3.0, -0.2, -0.7]], dtype=torch.float64)
ENTROPY = torch.tensor([[0.4, 1.3, 0.9], [2.0, 0.1, math.nan]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
ADVANTAGE = torch.tensor([1.0, -0.5], dtype=torch.float64)


def loss(*, bonus, rows=slice(None), entropy=None, normalizer=None, **axes):
    logp = LOGP[rows].clone().requires_grad_()
    entropy = (ENTROPY if entropy is None else entropy)[rows].clone().requires_grad_()
    config = ObjectiveConfig.model_validate({"entropy_bonus": bonus, **axes})
    out = policy_loss(
        logp=logp,
        logp_old=LOGP[rows],
        logp_rollout=LOGP[rows] - 0.1,
        mask=MASK[rows],
        advantage=ADVANTAGE[rows],
        config=config,
        entropy=entropy,
        normalizer=normalizer,
    )
    out.loss.backward()
    return out, logp.grad, entropy.grad


@pytest.mark.parametrize(
    ("aggregate", "scale"),
    [
        ("token_mean", [[1 / 5] * 3, [1 / 5] * 2 + [0]]),
        ("seq_mean_token_sum", [[1 / 2] * 3, [1 / 2] * 2 + [0]]),
        ("seq_mean_token_mean", [[1 / 6] * 3, [1 / 4] * 2 + [0]]),
        ("fixed_length_sum", [[1 / 3] * 3, [1 / 3] * 2 + [0]]),
    ],
)
def test_it_is_aggregated_as_the_rest_of_the_loss(aggregate, scale):
    scale = torch.tensor(scale, dtype=torch.float64)
    plain, slope, untouched = loss(bonus=0.0, aggregate=aggregate)
    with_bonus, same_slope, gradient = loss(bonus=0.25, aggregate=aggregate)
    expected = 0.25 * (ENTROPY.nan_to_num() * scale).sum()
    assert_close(plain.loss - with_bonus.loss, expected, atol=1e-12, rtol=0)
    assert torch.equal(slope, same_slope)
    assert untouched is None
    assert_close(gradient, -0.25 * scale, atol=1e-12, rtol=0)
    assert_close(with_bonus.receipt["entropy"].item(), 0.25 * 4.7, atol=1e-12, rtol=0)
    assert with_bonus.receipt["entropy_bonus"] == 5
    assert not any(value.requires_grad for value in with_bonus.receipt.values())
    assert {"entropy", "entropy_bonus"}.isdisjoint(plain.receipt)


def test_rejected_tokens_have_none_and_masked_weights_keep_it():
    """mu is 0.1 nats below pi_old everywhere, and k1's bound on the second row's negative advantage takes it."""
    rule = {"statistic": "k1", "upper": -0.2, "when": "negative_advantage"}
    out, _, gradient = loss(bonus=1.0, reject=[rule])
    assert out.keep.tolist() == [[True] * 3, [False] * 3]
    assert gradient[0].tolist() == pytest.approx([-1 / 5] * 3, abs=1e-12)
    assert gradient[1].tolist() == [0, 0, 0]
    assert out.receipt["entropy_bonus"] == 3
    weight = {"action": "mask", "level": "token", "upper": 1.05}
    out, _, gradient = loss(bonus=1.0, weight=weight)
    assert not out.keep.any()
    assert out.receipt["entropy_bonus"] == 5
    assert gradient[MASK].tolist() == pytest.approx([-1 / 5] * 5, abs=1e-12)


def test_micro_batches_add_up():
    config = ObjectiveConfig(entropy_bonus=0.5)
    whole, _, gradient = loss(bonus=0.5)
    parts = [slice(0, 1), slice(1, 2)]
    sums = [
        normalizer_sums(
            logp=LOGP[rows],
            logp_old=LOGP[rows],
            logp_rollout=LOGP[rows] - 0.1,
            mask=MASK[rows],
            advantage=ADVANTAGE[rows],
            config=config,
        )
        for rows in parts
    ]
    normalizer = whole_batch(sums, config, fixed_length=3)
    found = [loss(bonus=0.5, rows=rows, normalizer=normalizer) for rows in parts]
    assert_close(sum(out.loss for out, _, _ in found), whole.loss, atol=1e-12, rtol=0)
    assert_close(torch.cat([g for _, _, g in found]), gradient, atol=1e-12, rtol=0)


def test_a_bonus_without_an_entropy_is_refused():
    with pytest.raises(ValueError, match="pass entropy"):
        policy_loss(
            logp=LOGP,
            logp_old=LOGP,
            logp_rollout=LOGP,
            mask=MASK,
            advantage=ADVANTAGE,
            config=ObjectiveConfig(entropy_bonus=0.1),
        )
