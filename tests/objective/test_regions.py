"""Regions around mu and soft surrogates: the fixture of eight tokens, second implementations, refused settings."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from alpkit.config import PRESETS, ObjectiveConfig
from alpkit.objective import mismatch_correction, policy_loss, surrogate
from alpkit.objective.surrogate import soft_weight

FILL = 1.0  # the masked token's probability: what stands there does not matter
MU = torch.tensor([[0.50, 0.10, 0.90, 0.02], [0.30, 0.60, 0.05, FILL]], dtype=torch.float64).log()
OLD = torch.tensor([[0.52, 0.11, 0.88, 0.03], [0.28, 0.62, 0.04, FILL]], dtype=torch.float64).log()
LP = torch.tensor([[0.75, 0.15, 0.55, 0.05], [0.09, 0.85, 0.03, FILL]], dtype=torch.float64).log()
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
ADVANTAGE = torch.tensor([1.0, -0.5], dtype=torch.float64)
FORWARD = [0.143841, 0.010896, 0.292821, 0.012143, 0.177537, 0.183348, 0.005749]
BACKWARD = [0.130812, 0.012235, 0.405973, 0.016278, 0.130394, 0.148936, 0.004884]


def loss(config, *, logp=LP, old=OLD, mu=MU, mask=MASK, advantage=ADVANTAGE, **more):
    logp = logp.clone().requires_grad_(True)
    out = policy_loss(
        logp=logp, logp_old=old, logp_rollout=mu, mask=mask, advantage=advantage, config=config, **more
    )  # fmt: skip
    out.loss.backward()
    return out, logp.grad


def of(preset):
    return ObjectiveConfig.model_validate(PRESETS[preset].settings["objective"])


def rejecting(**rule):
    """A plain ratio over mu, so that `keep` shows what the rule removed."""
    return ObjectiveConfig.model_validate(
        {"ratio": {"denominator": "rollout"}, "reject": [{"of": "bypass", **rule}]}
    )


@pytest.mark.parametrize(
    ("preset", "keep", "value", "grad"),
    [
        ("dppo-tv", [0, 1, 1, 1, 0, 1, 1], 1.361896, [0, -0.214286, -0.087302, -0.357143, 0, 0.101190, 0.042857]),
        ("dppo-kl", [0, 1, 1, 1, 0, 1, 1], 1.361896, [0, -0.214286, -0.087302, -0.357143, 0, 0.101190, 0.042857]),
        ("ipo", [1, 1, 0, 1, 1, 1, 1], 1.319751, [-0.214286, -0.214286, 0, -0.357143, 0.021429, 0.101190, 0.042857]),
        ("kpop", [0, 1, 0, 1, 0, 0, 1], 1.326149, [0, -0.214286, 0, -0.357143, 0, 0, 0.042857]),
        ("sapo", [1] * 7, -0.701675, [-0.171750, -0.164942, -0.075442, -0.186798, 0.023654, 0.110021, 0.061436]),
        ("vespo", [1] * 7, -0.025429, [-0.001126] * 4 + [0.005255] * 3),
    ],
)  # fmt: skip
def test_the_fixture(preset, keep, value, grad):
    out, slope = loss(of(preset))
    assert out.keep[MASK.bool()].int().tolist() == keep
    assert out.loss.item() == pytest.approx(value, abs=1e-6)
    assert_close(slope[MASK.bool()], torch.tensor(grad, dtype=torch.float64), atol=1e-6, rtol=0)
    assert slope[1, 3] == 0


@pytest.mark.parametrize("name", ["binary_kl", "binary_kl_both"])
def test_the_statistics_of_the_fixture(name):
    # A bound just below a token's value removes it, one just above leaves it in.
    both = [max(pair) for pair in zip(FORWARD, BACKWARD, strict=True)]
    for place, value in enumerate(FORWARD if name == "binary_kl" else both):
        for bound, kept in ((value + 1e-6, True), (value - 1e-6, False)):
            out, _ = loss(rejecting(statistic=name, upper=bound))
            assert out.keep[MASK.bool()][place].item() is kept


def test_signed_gaps_have_a_bound_on_either_side():
    gap = (LP.exp() - MU.exp())[MASK.bool()]
    for bounds in ({"upper": 0.2}, {"lower": -0.2}, {"lower": -0.3, "upper": 0.1}):
        out, _ = loss(rejecting(statistic="signed_prob_gap", **bounds))
        low, high = bounds.get("lower", -1), bounds.get("upper", 1)
        assert torch.equal(out.keep[MASK.bool()], (gap >= low) & (gap <= high))


@pytest.mark.parametrize(
    ("when", "eligible"),
    [
        ("always", [1, 1, 1, 1, 1, 1, 1]),
        ("positive_advantage", [1, 1, 1, 1, 0, 0, 0]),
        ("negative_advantage", [0, 0, 0, 0, 1, 1, 1]),
        ("moving_away", [1, 1, 0, 1, 1, 0, 1]),
    ],
)
def test_a_rule_takes_only_what_its_condition_allows(when, eligible):
    # Every binary KL is above 0.001, of a response as of a token: the condition alone decides.
    for reduce in ("token", "mean"):
        rule = {"statistic": "binary_kl", "reduce": reduce, "upper": 0.001, "when": when}
        out, _ = loss(rejecting(**rule))
        assert out.keep[MASK.bool()].int().tolist() == [1 - e for e in eligible]
    # And so it does where every token has an advantage of its own.
    out, _ = loss(rejecting(**rule), advantage=ADVANTAGE[:, None].expand(2, 4).clone())
    assert out.keep[MASK.bool()].int().tolist() == [1 - e for e in eligible]


@pytest.mark.parametrize("when", ["positive_advantage", "negative_advantage", "moving_away"])
def test_no_advantage_has_no_sign_and_moves_nowhere(when):
    rule = {"statistic": "binary_kl", "upper": 0.001, "when": when}
    out, _ = loss(rejecting(**rule), advantage=torch.zeros(2, dtype=torch.float64))
    assert torch.equal(out.keep, MASK.bool())


@pytest.mark.parametrize(
    "statistic", ["k1", "k2", "k3", "prob_gap", "signed_prob_gap", "binary_kl", "binary_kl_both"]
)
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 7.0])
def test_what_stands_at_masked_positions_is_in_no_responses_statistic(statistic, garbage):
    for reduce in ("mean", "sum", "min", "max"):
        config = rejecting(statistic=statistic, reduce=reduce, upper=0.05)
        expected, _ = loss(config)
        hole = MASK == 0
        spoiled, slope = loss(
            config, logp=LP.masked_fill(hole, garbage), mu=MU.masked_fill(hole, garbage)
        )
        assert torch.equal(spoiled.keep, expected.keep), reduce
        assert slope.isfinite().all()


def test_every_divergence_is_of_the_clamped_log_ratio():
    # 50 nats off, clamped to 20: between the value there and the value here lies the bound.
    for statistic, bound in (("k1", 30.0), ("k2", 500.0), ("k3", 1e10)):
        for sign, side in ((1, "upper"), (-1, "lower")):
            if side == "lower" and statistic != "k1":
                continue
            gap = -50.0 * sign if statistic == "k1" else 50.0
            out, _ = loss(
                rejecting(statistic=statistic, reduce="sum", **{side: sign * bound}),
                logp=torch.tensor([[-60.0 + max(gap, 0)]]), old=None, mu=torch.tensor([[-60.0 - min(gap, 0)]]),
                mask=torch.ones(1, 1), advantage=torch.ones(1),
            )  # fmt: skip
            assert out.keep.item()


def test_moving_away_looks_at_the_rules_own_ratio():
    rule = {"statistic": "prob_gap", "of": "mismatch", "upper": 0.001, "when": "moving_away"}
    out, _ = loss(rejecting(**rule))
    away = (ADVANTAGE[:, None] * (OLD - MU) > 0)[MASK.bool()]
    assert torch.equal(out.keep[MASK.bool()], ~away)


def test_a_symmetric_tv_region_is_a_gap_that_only_moving_away_is_held_by():
    data = {"statistic": "prob_gap", "upper": 0.2, "when": "moving_away"}
    assert torch.equal(loss(of("dppo-tv"))[0].keep, loss(rejecting(**data))[0].keep)


def test_conditions_on_the_advantage_belong_to_the_loss():
    for when in ("positive_advantage", "negative_advantage", "moving_away"):
        rule = rejecting(statistic="k3", of="mismatch", upper=0.1, when=when).reject
        with pytest.raises(ValueError, match=f"{when} looks at the advantage: use policy_loss"):
            mismatch_correction(
                logp_old=OLD,
                logp_rollout=MU,
                mask=MASK,
                weight=ObjectiveConfig().weight,
                reject=rule,
            )


@given(mu=st.floats(-60, -1e-9), numerator=st.floats(-60, -1e-9), single=st.booleans())
@settings(max_examples=200, deadline=None)
def test_binary_kl_is_finite_for_every_probability_also_in_float32(mu, numerator, single):
    dtype = torch.float32 if single else torch.float64
    pair = [torch.tensor([[value]], dtype=dtype) for value in (numerator, mu)]
    held = [min(max(math.exp(value.item()), 1e-6), 1 - 1e-6) for value in pair]
    p, q = held[1], held[0]
    forward = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    backward = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    for name, expected in (("binary_kl", forward), ("binary_kl_both", max(forward, backward))):
        for bound, kept in ((expected * 1.001 + 1e-5, True), (expected * 0.999 - 1e-5, False)):
            if not 0 <= bound < 13.8:
                continue
            out, _ = loss(
                rejecting(statistic=name, upper=bound), logp=pair[0], old=None, mu=pair[1],
                mask=torch.ones(1, 1), advantage=torch.ones(1, dtype=dtype),
            )  # fmt: skip
            assert out.keep.item() is kept


def test_a_certain_token_is_no_nan_in_float32():
    # 1 - 1e-8 is 1 in float32: a clamp there makes log(1 - p) infinite and the statistic NaN.
    certain, rare = torch.zeros(1, 1), torch.full((1, 1), -20.0)
    out, _ = loss(
        rejecting(statistic="binary_kl_both", upper=13.0), logp=certain, old=None, mu=rare,
        mask=torch.ones(1, 1), advantage=torch.ones(1),
    )  # fmt: skip
    assert not out.keep.item()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"statistic": "binary_kl", "lower": 0.1}, "set upper"),
        ({"statistic": "binary_kl_both", "lower": 0.1, "upper": 0.2}, "set upper"),
        ({"statistic": "binary_kl", "upper": -0.1}, "upper rejects everything"),
        ({"statistic": "binary_kl", "upper": 13.82}, "is never above 13.8155"),
        ({"statistic": "signed_prob_gap", "upper": 1.0}, "never above 1"),
        ({"statistic": "signed_prob_gap", "lower": -1.0}, "never below -1"),
        ({"statistic": "prob_gap", "upper": 1.0}, "never above 1"),
        ({"statistic": "binary_kl", "upper": 0.1, "when": "sometimes"}, "moving_away"),
    ],
)
def test_rules_that_can_never_act_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        rejecting(**rule)


def test_sums_may_pass_what_bounds_one_token():
    for rule in (
        {"statistic": "signed_prob_gap", "upper": 1.5},
        {"statistic": "signed_prob_gap", "lower": -1.5},
        {"statistic": "binary_kl", "upper": 20.0},
        {"statistic": "prob_gap", "upper": 1.0},
    ):
        assert rejecting(**rule, reduce="sum").reject


def by_sign(condition, yes, no):
    return torch.where(condition, *torch.tensor([yes, no], dtype=torch.float64))


def by_autograd(kind, logp, ratio, advantage, config):
    """The page's loss per token, left to autograd, x = exp(logp - sg(logp)) * ratio."""
    x = (logp - logp.detach()).exp() * ratio
    if kind == "sapo":
        tau = by_sign(advantage > 0, config.tau_positive, config.tau_negative)
        return -advantage * 4 / tau * torch.sigmoid(tau * (x - 1))
    below = advantage < 0
    k = by_sign(below, config.power_negative, config.power_positive)
    decay = by_sign(below, config.decay_negative, config.decay_positive)
    held = x.detach().clamp(min=1e-8)
    return -(decay + k * held.log() - decay * held).exp() * advantage * logp


@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["sapo", "vespo"]))
@settings(max_examples=60, deadline=None)
def test_soft_surrogates_are_their_formula_and_its_derivative(seed, kind):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(3, 2, 5, dtype=torch.float64, generator=generator)
    logp, ratio = -draw[0].abs(), draw[1].exp()
    advantage = draw[2] * (draw[2].abs() > 0.2)
    own = {"tau_positive": 0.7, "tau_negative": 1.9} if kind == "sapo" else {
        "power_positive": 1.5, "decay_positive": 2.5, "power_negative": 2.75, "decay_negative": 0.5
    }  # fmt: skip
    config = ObjectiveConfig.model_validate(
        {"ratio": {"level": "product"}, "surrogate": {"kind": kind, **own}}
    ).surrogate
    found = surrogate(ratio, logp, advantage, config)
    leaf = logp.clone().requires_grad_(True)
    expected = by_autograd(kind, leaf, ratio, advantage, config)
    expected.sum().backward()
    assert_close(found.loss, expected.detach(), atol=1e-12, rtol=1e-12)
    assert_close(found.slope, leaf.grad, atol=1e-12, rtol=1e-12)
    assert (found.alive == 1).all()


@pytest.mark.parametrize("kind", ["sapo", "vespo"])
def test_soft_surrogates_end_at_ratios_that_overflow(kind):
    config = ObjectiveConfig.model_validate(
        {"ratio": {"level": "product"}, "surrogate": {"kind": kind}}
    ).surrogate
    ratio = torch.tensor([[math.exp(-60), 1.0, math.exp(60)]])
    for advantage in (1.0, -1.0):
        found = surrogate(ratio, torch.zeros(1, 3) - 1, torch.tensor([[advantage]]), config)
        assert found.loss.isfinite().all()
        assert found.slope[0].tolist() == pytest.approx([0, -advantage, 0], abs=1e-6)


def test_a_clamped_ratio_of_sapo_is_a_constant():
    config = ObjectiveConfig.model_validate(
        {"surrogate": {"kind": "sapo"}, "log_ratio_clamp": [-0.1, 0.1]}
    )
    out, slope = loss(config)
    outside = ((LP - OLD).abs() > 0.1) & MASK.bool()
    assert torch.equal(slope == 0, outside | ~MASK.bool())
    assert out.receipt["surviving"].item() == (MASK.bool() & ~outside).sum().item()
    assert out.receipt["saturated"].item() == outside.sum().item()
    vespo = ObjectiveConfig.model_validate(
        {**PRESETS["vespo"].settings["objective"], "log_ratio_clamp": [-0.1, 0.1]}
    )
    assert (loss(vespo)[1][MASK.bool()] != 0).all()


def test_the_receipt_has_vespos_mean_weight_and_no_band():
    out, _ = loss(of("vespo"))
    phi = (4 * 0.007883 + 3 * 0.073573) / 7
    assert out.receipt["soft_weight"].item() / 7 == pytest.approx(phi, abs=1e-6)
    for preset in ("vespo", "sapo", "kpop"):
        assert not [
            key for key in loss(of(preset))[0].receipt if "clipped" in key or "outside" in key
        ]
    assert "soft_weight" not in loss(of("sapo"))[0].receipt
    # Of no advantage it is the weight of a positive one.
    none, _ = loss(of("vespo"), advantage=torch.zeros(2, dtype=torch.float64))
    products = torch.tensor([3.4375, 0.255])
    phi = (products**2 * (3 * (1 - products)).exp() * torch.tensor([4, 3])).sum() / 7
    assert none.receipt["soft_weight"].item() / 7 == pytest.approx(phi.item(), abs=1e-6)


def test_vespos_ratio_is_held_from_below():
    config = of("vespo").surrogate
    for advantage in (1.0, -1.0):
        low, held = (
            soft_weight(
                torch.tensor([[x]], dtype=torch.float64), torch.tensor([[advantage]]), config
            )
            for x in (1e-20, 1e-8)
        )
        assert low.item() == pytest.approx(held.item(), rel=1e-12)
        assert low.item() > 0


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"surrogate": {"kind": "vespo"}}, "set ratio.level: product"),
        ({"surrogate": {"kind": "vespo"}, "ratio": {"level": "product"}, "weight": {"action": "truncate"}},
         "set weight.action: none"),
        ({"surrogate": {"kind": "sapo", "epsilon_low": 0.1}}, "epsilon_low bounds a clip, and sapo has none"),
        ({"surrogate": {"kind": "reinforce", "epsilon_high": 0.1}}, "epsilon_high bounds a clip, and reinforce"),
        ({"surrogate": {"kind": "ppo", "tau_positive": 2}}, "tau_positive shapes a sigmoid, and ppo"),
        ({"surrogate": {"kind": "cispo", "tau_negative": 2}}, "tau_negative shapes a sigmoid, and cispo"),
        ({"surrogate": {"kind": "sapo", "power_positive": 1}}, "power_positive shapes a weight by the ratio, and sapo"),
        ({"surrogate": {"kind": "ppo", "decay_positive": 1}}, "decay_positive shapes a weight"),
        ({"surrogate": {"kind": "ppo", "power_negative": 1}}, "power_negative shapes a weight"),
        ({"surrogate": {"kind": "ppo", "decay_negative": 1}}, "decay_negative shapes a weight"),
        ({"surrogate": {"kind": "sapo", "dual_clip": 3}}, "dual_clip acts on the ppo surrogate only"),
        ({"surrogate": {"kind": "sapo"}, "ratio": {"denominator": "current"}}, "a clip can never act"),
    ],
)  # fmt: skip
def test_surrogates_take_only_their_own_settings(axes, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig.model_validate(axes)
