"""`gradient: clean`: the value of the perturbed ratio, the gradient of pi_theta; against finite differences."""

import pytest
import torch
from torch.testing import assert_close

from alpkit.config import ObjectiveConfig, PerturbationConfig
from alpkit.objective import policy_loss
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.policy.perturbation.numerator import with_gradient_of
from tests.support.tiny_models import tiny_gpt2

KEY = (0, 1, 0)
OBJECTIVE = ObjectiveConfig(
    ratio={"denominator": "rollout"}, surrogate={"epsilon_low": 1.0, "epsilon_high": 1e6}
)


@pytest.fixture
def scene():
    """A float64 model, its noise, tokens, and a loss of log-probs without a kink near them."""
    model = tiny_gpt2().double()
    noise = LayerwisePerturbation(
        model, PerturbationConfig(sigma={"init": 0.1, "learnable": False})
    )
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 20, (3, 7), generator=generator)
    advantage = torch.tensor([1.0, -0.5, 0.7], dtype=torch.float64)

    def clean():
        logits = model(tokens).logits[:, :-1]
        return logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]

    def perturbed():
        with noise.active(KEY):
            return clean()

    with torch.no_grad():
        rollout = clean() + 0.1

    def loss(logp):
        return policy_loss(
            logp=logp, logp_old=None, logp_rollout=rollout, mask=torch.ones(3, 6),
            advantage=advantage, config=OBJECTIVE,
        )  # fmt: skip

    return model, clean, perturbed, loss


def slope_along(model, direction, value, step=1e-6):
    """Central difference of `value()` as the parameters move along `direction`."""
    ends = []
    start = [p.detach().clone() for p in model.parameters()]
    for sign in (1, -1, 0):
        with torch.no_grad():
            for p, s, d in zip(model.parameters(), start, direction, strict=True):
                p.copy_(s + sign * step * d)
            ends.append(value())
    return (ends[0] - ends[1]) / (2 * step)


def gradient_along(model, direction, value):
    model.zero_grad()
    value.backward()
    pairs = zip(model.parameters(), direction, strict=True)
    return sum((p.grad * d).sum() for p, d in pairs if p.grad is not None).item()


def test_the_clean_gradient_is_the_losses_finite_difference_through_the_clean_policy(scene):
    """1e-6 relative: the perturbed ratio moves as the clean policy does, its noise's part held where it is."""
    model, clean, perturbed, loss = scene
    generator = torch.Generator().manual_seed(1)
    direction = [
        torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in model.parameters()
    ]
    with torch.no_grad():
        offset = perturbed() - clean()
    assert offset.abs().max() > 0.01
    mixed = loss(with_gradient_of(clean(), perturbed()))
    through_clean = gradient_along(model, direction, mixed.loss)
    expected = slope_along(model, direction, lambda: loss(clean() + offset).loss.item())
    assert through_clean == pytest.approx(expected, rel=1e-6)

    # The same loss with the gradient of the perturbed policy is another vector.
    noisy = loss(perturbed())
    assert_close(mixed.ratio, noisy.ratio, rtol=0, atol=0)
    assert mixed.loss.item() == noisy.loss.item()
    through_noise = gradient_along(model, direction, noisy.loss)
    expected = slope_along(model, direction, lambda: loss(perturbed()).loss.item())
    assert through_noise == pytest.approx(expected, rel=1e-6)
    assert abs(through_clean / through_noise - 1) > 1e-3


def test_nothing_reaches_the_noise():
    clean = torch.tensor([0.1, 0.2], requires_grad=True)
    perturbed = torch.tensor([0.3, -torch.inf], requires_grad=True)
    mixed = with_gradient_of(clean, perturbed)
    assert torch.equal(mixed, perturbed)
    (mixed * torch.tensor([2.0, 0.0])).nansum().backward()
    assert clean.grad.tolist() == [2.0, 0.0]
    assert perturbed.grad is None
