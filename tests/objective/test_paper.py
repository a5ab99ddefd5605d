"""`paper/*` against what the released scripts compute, on fixture X (float64, KL off unless said; 1e-6)."""

import pytest
import torch

from alpkit.config import PRESETS, ObjectiveConfig, RunConfig
from alpkit.objective import policy_loss
from tests.objective.test_loss import ADVANTAGE, LP, MASK, MU, OLD

SINGLE_TURN_WITH_KL = {
    "paper/seq-grpo", "paper/token-tis", "paper/seq-tis", "paper/token-mis", "paper/token-mis-figure",
    "paper/geo-rs", "paper/seq-bypass", "paper/seq-alp", "paper/seq-alp-as-released",
}  # fmt: skip


def settings(name):
    return RunConfig.model_validate(PRESETS[name].settings)


def loss(name, *, coef=0.0, **axes):
    objective = settings(name).objective.model_dump() | axes
    objective["reference_kl"]["coef"] = coef
    lp, mu, old = (torch.tensor(x, dtype=torch.float64) for x in (LP, MU, OLD))
    return policy_loss(
        logp=lp.requires_grad_(True), logp_old=old, logp_rollout=mu, mask=MASK, advantage=ADVANTAGE,
        config=ObjectiveConfig.model_validate(objective), logp_reference=mu - 9.0,
    )  # fmt: skip


def test_token_mis_truncates_and_rejects_on_the_product_and_leaves_the_denominator():
    """W is 0.887, 1.185 and 0.244: the third response is outside [1/3, 3] and counts nowhere."""
    out = loss("paper/token-mis")
    assert out.loss.item() == pytest.approx(-0.0357, abs=5e-5)
    assert out.keep.sum(dim=1).tolist() == [4, 3, 0]
    # By hand: four tokens of response 1, three of response 2, their weights and their own seven tokens.
    lp, mu, old = (torch.tensor(x, dtype=torch.float64) for x in (LP, MU, OLD))
    ratio, a = (lp - old).exp(), ADVANTAGE[:, None]
    weight = ((old - mu) * MASK).sum(dim=1, keepdim=True).exp().clamp(max=3)
    each = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.28)) * weight
    by_hand = (each[0, :4].sum() + each[1, :3].sum()) / 7
    assert out.loss.item() == pytest.approx(by_hand.item(), abs=1e-12)


def test_token_mis_of_the_figures_keeps_the_denominator():
    out = loss("paper/token-mis-figure")
    assert out.keep.sum(dim=1).tolist() == [4, 3, 3]
    rejecting = loss("paper/token-mis")
    third = out.loss.item() - rejecting.loss.item() * 7 / 10
    weight = 0.244143  # alive: a masked weight has no lower bound
    lp, old = (torch.tensor(x, dtype=torch.float64)[2, :3] for x in (LP, OLD))
    ratio = (lp - old).exp()
    expected = (weight * 1.2 * ratio.clamp(min=0.8).clamp(max=10)).sum().item() / 10
    assert third == pytest.approx(expected, abs=1e-6)


def test_who_pulls_towards_a_reference_and_how():
    """Single-turn scripts do, but for Qwen3-4B's Seq-MIS; with both clamps, so that 9 nats give no gradient."""
    for name in PRESETS:
        if name.startswith("paper/"):
            kl = settings(name).objective.reference_kl
            assert (kl.coef > 0) == (name in SINGLE_TURN_WITH_KL), name
            if kl.coef:
                found = (kl.coef, kl.estimator, kl.log_ratio_clamp, kl.value_clamp)
                assert found == (1e-3, "k3", 20.0, 10.0)
    out = loss("paper/seq-grpo", coef=1e-3)
    assert (
        out.receipt["reference_value_clamped"].item() == 0
    )  # mu - 9 lies below the policy: k3 is small
    grpo = ObjectiveConfig(reference_kl=settings("paper/seq-grpo").objective.reference_kl)
    lp = torch.tensor([[-9.5]], dtype=torch.float64, requires_grad=True)
    policy_loss(
        logp=lp, logp_old=lp.detach(), logp_rollout=lp.detach(), mask=torch.ones(1, 1),
        advantage=torch.zeros(1, dtype=torch.float64), config=grpo,
        logp_reference=torch.tensor([[-0.5]], dtype=torch.float64),
    ).loss.backward()  # fmt: skip
    assert lp.grad.item() == 0


@pytest.mark.parametrize(
    ("name", "level", "dual_clip", "sigma"),
    [
        ("paper/seq-alp", "product", 10.0, (0.02, True, 0.01, 0.01)),
        ("paper/mt-seq-alp", "product", 3.0, (1e-6, True, 5e-4, 0.01)),
        ("paper/mt-token-alp", "token", 3.0, (1e-6, True, 5e-4, 0.01)),
        ("paper/mt-seq-alp-fixed", "product", 3.0, (1e-6, False, None, None)),
    ],
)
def test_alp_as_launched(name, level, dual_clip, sigma):
    config = settings(name)
    objective, noise = config.objective, config.perturbation
    clip = objective.surrogate
    assert (objective.ratio.denominator, objective.ratio.level) == ("rollout", level)
    assert (clip.epsilon_low, clip.epsilon_high, clip.dual_clip) == (0.5, 3.0, dual_clip)
    assert objective.weight.action == "none"
    assert objective.log_ratio_clamp == (-20.0, 20.0)
    assert (noise.site, noise.layers, noise.scale) == ("layer_input", "all", "absolute")
    init, learnable, lr, decay = sigma
    assert (noise.sigma.init, noise.sigma.learnable) == (init, learnable)
    if learnable:
        assert (noise.sigma.lr, noise.sigma.weight_decay) == (lr, decay)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("paper/seq-grpo", 0.192350),
        ("paper/gspo", 0.406545),
        ("paper/seq-bypass", 0.110816),
        ("paper/seq-alp", 0.110816),
        ("paper/mt-seq-alp", 0.110816),
        ("paper/mt-token-alp", 0.144216),
    ],
)
def test_losses_on_the_fixture(name, expected):
    """Two independent evaluations of the scripts' formulas; the noise itself is not in a loss of given log-probs."""
    assert loss(name, aggregate=settings(name).objective.aggregate).loss.item() == pytest.approx(
        expected, abs=1e-6
    )
