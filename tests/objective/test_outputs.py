"""What comes out beside the loss (receipts, weights, marks), counted anew by hand; what goes in stays as it is."""

import pytest
import torch
from torch.testing import assert_close

from alpkit.config import PRESETS, ObjectiveConfig
from alpkit.config.objective import ReferenceKLConfig
from alpkit.objective import (
    Inputs,
    mismatch_correction,
    normalizer_sums,
    policy_loss,
    reduce_to_level,
    reference_kl,
    sketch_state,
)

LEVELS = ("token", "cumulative", "cumulative_geometric", "turn", "cumulative_turn", "geometric", "product")  # fmt: skip
# Score centering needs candidates besides: test_centering.py.
ALL = {
    name: preset.settings["objective"]
    for name, preset in sorted(PRESETS.items())
    if not name.startswith("score-centering")
}
METHODS = ALL | {level: {"ratio": {"level": level}} for level in LEVELS}
MASKED = {"action": "mask", "lower": 0.8, "upper": 1.2}


def batch(rows=5, tok=9, *, per_token=False, seed=0):
    """Responses of two turns with a tool's answer between them; garbage wherever nothing is valid."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(5, rows, tok, dtype=torch.float64, generator=generator)
    mu = -draw[0].abs()
    old = mu + 0.2 * draw[1]
    mask = torch.arange(tok) < torch.randint(1, tok + 1, (rows, 1), generator=generator)
    mask[:, 3:5] = False
    mask[0] = torch.arange(tok) == 0
    data = {"logp": old + 0.3 * draw[2], "logp_old": old, "logp_rollout": mu}
    data["logp_reference"] = mu + 0.3 * draw[3]
    for garbage, values in zip((torch.nan, torch.inf, -torch.inf, 1e4), data.values(), strict=True):
        values[~mask] = garbage
    advantage = draw[4] if per_token else draw[4][:, 0]
    turn = (torch.arange(tok) > 4).long().expand(rows, tok).clone()
    return {**data, "mask": mask, "advantage": advantage, "turn": turn}


def loss(data, **axes):
    logp = data["logp"].clone().requires_grad_(True)
    out = policy_loss(**{**data, "logp": logp}, config=ObjectiveConfig.model_validate(axes))
    out.loss.backward()
    return out, logp.grad


def by_token(data):
    """Advantages of the valid tokens, one each."""
    advantage = data["advantage"]
    advantage = advantage[:, None] if advantage.ndim == 1 else advantage
    return advantage.expand(data["mask"].shape)[data["mask"]]


def number(found):
    return {key: value.item() for key, value in found.items()}


@pytest.mark.parametrize("name", METHODS)
def test_what_goes_in_stays_as_it_is(name):
    data = batch(per_token=True)
    before = {key: value.clone() for key, value in data.items()}
    policy_loss(**data, config=ObjectiveConfig.model_validate(METHODS[name]))
    reduce_to_level(data["logp_old"], data["mask"], "cumulative")
    for key, value in data.items():
        assert_close(value, before[key], rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_a_response_without_a_valid_token_is_no_response(name):
    data = batch()
    mask = torch.cat([data["mask"], torch.zeros_like(data["mask"][:1])])
    longer = {key: torch.cat([value, value[:1]]) for key, value in data.items()} | {"mask": mask}
    out, gradient = loss(data, **METHODS[name])
    again, padded = loss(longer, **METHODS[name])
    assert again.loss.item() == pytest.approx(out.loss.item(), abs=1e-12)
    assert_close(padded[:-1], gradient, atol=1e-12, rtol=0)
    assert (padded[-1] == 0).all()
    assert not again.keep[-1].any()
    assert number(again.receipt) == pytest.approx(number(out.receipt), abs=1e-9)


@pytest.mark.parametrize("tok", [9, 2])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_what_the_clip_touched(level, per_token, tok):
    data = batch(rows=40, tok=tok, per_token=per_token)
    data["advantage"][3] = 0.0  # neither sign
    clip = {"epsilon_low": 0.02, "epsilon_high": 0.03, "dual_clip": 1.05}
    out, gradient = loss(data, ratio={"level": level}, surrogate=clip)
    mask, a = data["mask"], by_token(data)
    assert (a == 0).any()
    ratio = out.ratio[mask]
    low, high, dual = ratio < 0.98, ratio > 1.03, (ratio > 1.05) & (a < 0)
    expected = {
        "outside_low_negative": low & (a < 0),
        "outside_low_positive": low & (a > 0),
        "outside_high_negative": high & (a < 0),
        "outside_high_positive": high & (a > 0),
        "clipped_low": low & (a < 0),
        "clipped_high": high & (a > 0),
        "dual_clipped": dual,
        "surviving": ~(low & (a < 0)) & ~(high & (a >= 0)) & ~dual,
        "sequences": mask.any(dim=1),
    }
    got = number(out.receipt)
    counts = {key: marks.sum().item() for key, marks in expected.items()}
    assert {key: got[key] for key in counts} == counts
    assert tok == 2 or min(counts.values()) > 0
    assert got["advantage"] == pytest.approx(a.abs().sum().item())
    assert torch.equal(gradient[mask] != 0, expected["surviving"] & (a != 0))
    kind = {"kind": "cispo", "epsilon_low": 0.02, "epsilon_high": 0.03}
    cispo = number(loss(data, ratio={"level": level}, surrogate=kind)[0].receipt)
    assert (cispo["clipped_low"], cispo["clipped_high"]) == (low.sum(), high.sum())
    assert cispo["surviving"] == mask.sum()


def test_bounds_belong_to_the_band():
    """A ratio at a bound of the clip, or at the dual clip, is inside: neither outside nor clipped nor dead."""
    zeros = torch.zeros(1, 4, dtype=torch.float64)
    logp = torch.log(torch.tensor([[1.0, 2.0, 1.0, 2.0]], dtype=torch.float64))
    data = {"logp": logp, "logp_old": zeros, "logp_rollout": zeros, "mask": torch.ones(1, 4)}
    data["advantage"] = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)
    clip = {"epsilon_low": 0.0, "epsilon_high": 1.0, "dual_clip": 2.0}
    out, gradient = loss(data, surrogate=clip)
    got = number(out.receipt)
    touched = [key for key in got if key.startswith(("outside", "clipped", "dual")) and got[key]]
    assert touched == []
    assert got["surviving"] == 4
    assert (gradient != 0).all()


ESTIMATORS = ("k1", "k2", "k3", "k3_straight_through")


@pytest.mark.parametrize("bound", [20.0, 3.0])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_references_log_ratio_stops_at_its_clamp(estimator, bound):
    config = ReferenceKLConfig(coef=1, estimator=estimator, log_ratio_clamp=bound)
    edges = torch.tensor([[-bound, bound]], dtype=torch.float64)
    far, edge = reference_kl(1.5 * edges, config), reference_kl(edges, config)
    assert_close(far.value, edge.value)
    assert (far.slope == 0).all()
    assert (edge.slope != 0).all()
    assert far.log_ratio_clamped.tolist() == [[1, 1]]
    assert edge.log_ratio_clamped.tolist() == [[0, 0]]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_references_value_stops_at_its_clamp_and_its_gradient_with_it(estimator):
    """A gap of 9 nats: k3 is 8,093 with a slope of -8,102; clamped at 10 it is 10 with a slope of 0."""
    d = torch.tensor([[9.0, 0.1, -12.0]], dtype=torch.float64)
    free = reference_kl(d, ReferenceKLConfig(coef=1, estimator=estimator))
    assert not free.value_clamped.any()
    got = reference_kl(d, ReferenceKLConfig(coef=1, estimator=estimator, value_clamp=10.0))
    beyond = free.value.abs() > 10
    assert beyond.any()
    assert not beyond.all()
    assert_close(got.value, free.value.clamp(-10, 10), rtol=0, atol=0)
    assert torch.equal(got.value_clamped.bool(), beyond)
    alive = torch.ones_like(beyond) if estimator == "k3_straight_through" else ~beyond
    assert_close(got.slope, torch.where(alive, free.slope, 0.0), rtol=0, atol=0)
    if estimator == "k3":
        assert free.slope[0, 0].item() == pytest.approx(-8102.08, abs=0.01)


def test_clamps_of_the_reference_are_counted_and_stop_the_gradient():
    data = batch(rows=20)
    mask = data["mask"]
    kl = {"coef": 0.5, "estimator": "k3", "log_ratio_clamp": 0.6, "value_clamp": 0.1}
    out, gradient = loss(data, reference_kl=kl)
    plain, without = loss(data)
    d = (data["logp_reference"] - data["logp"])[mask]
    held = d.clamp(-0.6, 0.6)
    value = held.exp() - 1 - held
    expected = {
        "reference_log_ratio_clamped": (d.abs() > 0.6).sum().item(),
        "reference_value_clamped": (value > 0.1).sum().item(),
    }
    got = number(out.receipt)
    assert {key: got[key] for key in expected} == expected
    assert 0 < min(expected.values())
    assert len(set(expected.values())) == 2
    value = value.clamp(max=0.1)
    assert (out.loss - plain.loss).item() == pytest.approx(0.5 * value.mean().item(), abs=1e-12)
    assert got["reference_kl"] == pytest.approx(value.sum().item())
    slope = torch.where((d.abs() <= 0.6) & (value < 0.1), 1 - d.exp(), 0.0)
    assert_close((gradient - without)[mask], 0.5 * slope / mask.sum(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("tok", [9, 2])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("level", ["token", "product", "geometric"])
def test_what_weight_and_rejection_took_out(level, per_token, tok):
    data = batch(rows=40, tok=tok, per_token=per_token, seed=4)
    rule = {"statistic": "ratio", "level": level, "of": "bypass", "upper": 1.3}
    out, _ = loss(data, weight={**MASKED, "level": "token"}, reject=[rule])
    mask, a = data["mask"], by_token(data)
    weight = (data["logp_old"] - data["logp_rollout"])[mask].exp()
    inside = (weight >= 0.8) & (weight <= 1.2)
    bypass = torch.where(mask, data["logp"] - data["logp_rollout"], 0.0)
    rejected = (reduce_to_level(bypass, mask, level).exp() > 1.3)[mask]
    keep = inside & ~rejected
    assert torch.equal(out.keep[mask], keep)
    assert not out.keep[~mask].any()
    assert_close(out.weight[mask], torch.where(keep, weight, 0.0))
    got = number(out.receipt)
    lost = torch.zeros_like(mask).masked_scatter(mask, rejected).sum(dim=1)
    expected = {
        "masked": (~inside).sum().item(),
        "rejected": rejected.sum().item(),
        "rejected_sequences": (lost == mask.sum(dim=1)).sum().item(),
        "removed_negative": (~keep & (a < 0)).sum().item(),
        "removed_positive": (~keep & (a > 0)).sum().item(),
    }
    assert {key: got[key] for key in expected} == expected
    assert min(expected["removed_negative"], expected["removed_positive"]) > 0
    assert expected["rejected_sequences"] < len(mask)
    assert got["advantage_removed"] == pytest.approx(a.abs()[~keep].sum().item())


def test_the_weight_of_what_stays_is_its_own():
    """Without rejection the weight is the truncated ratio; with one it is 0 there and as before elsewhere."""
    data = batch(rows=20)
    mask, weight = data["mask"], {"action": "truncate", "upper": 1.1}
    raw = (data["logp_old"] - data["logp_rollout"])[mask].exp().clamp(max=1.1)
    assert_close(loss(data, weight=weight)[0].weight[mask], raw)
    out, _ = loss(data, weight=weight, reject=[{"statistic": "ratio", "lower": 0.9}])
    assert_close(out.weight[mask], torch.where(raw >= 0.9, raw, 0.0))
    alone, _ = loss(data, reject=[{"statistic": "ratio", "lower": 0.9}])
    assert_close(alone.weight[mask], (raw >= 0.9).double())


def test_inputs_are_the_loss_calls_own_arguments():
    data = batch()
    reference = data.pop("logp_reference")
    inputs = Inputs(**data)
    config = ObjectiveConfig.model_validate(ALL["token-mis"])
    passed = policy_loss(**vars(inputs), config=config)
    spelled = policy_loss(**data, config=config, logp_reference=reference)
    assert passed.loss == spelled.loss
    assert vars(Inputs(**{k: v for k, v in data.items() if k != "turn"}))["turn"] is None


def test_the_gradient_is_scaled_by_what_follows_the_loss():
    data = batch()
    _, gradient = loss(data)
    logp = data["logp"].clone().requires_grad_(True)
    (policy_loss(**{**data, "logp": logp}, config=ObjectiveConfig()).loss * 3 + 1).backward()
    assert_close(logp.grad, 3 * gradient)


def test_everything_but_the_loss_is_detached():
    data = batch()
    live = {
        key: x.clone().requires_grad_(True) for key, x in data.items() if key.startswith("logp")
    }
    axes = {"weight": {**MASKED, "level": "token"}, "reference_kl": {"coef": 0.1}}
    out = policy_loss(**{**data, **live}, config=ObjectiveConfig.model_validate(axes))
    assert out.loss.requires_grad
    assert not any(x.requires_grad for x in (out.ratio, out.weight, *out.receipt.values()))
    out.loss.backward()
    assert live["logp"].grad is not None
    assert live["logp_old"].grad is live["logp_rollout"].grad is live["logp_reference"].grad is None


def test_a_sketch_is_detached():
    log_ratio = torch.tensor([0.1, -0.2], requires_grad=True)
    assert not sketch_state(log_ratio).requires_grad


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("which", ["logp", "logp_old", "logp_rollout"])
def test_a_valid_token_without_a_finite_log_prob_is_counted_and_left_out(which, value):
    data = batch()
    without = {**data, "mask": data["mask"].clone()}
    without["mask"][1, 0] = False
    spoiled = {**data, which: data[which].clone()}
    spoiled[which][1, 0] = value
    out, gradient = loss(spoiled)
    expected, same = loss(without)
    assert out.loss.item() == pytest.approx(expected.loss.item(), abs=1e-12)
    assert_close(gradient, same, atol=1e-12, rtol=0)
    assert out.receipt["nonfinite"] == 1
    assert expected.receipt["nonfinite"] == 0


@pytest.mark.parametrize("kind", ["ppo", "cispo"])
def test_a_saturated_ratio_is_counted_and_in_ppo_its_gradient_is_dead(kind):
    data = batch()
    data["logp_rollout"] = data["logp_rollout"].clone()
    data["logp_rollout"][1, 0] = data["logp"][1, 0] - 30
    data["advantage"] = -torch.ones(5, dtype=torch.float64)  # no upper bound but the clamp
    axes = {"ratio": {"denominator": "rollout"}, "surrogate": {"kind": kind}}
    out, gradient = loss(data, **axes)
    assert out.receipt["saturated"] == 1
    assert out.ratio[1, 0].log().item() == pytest.approx(20)
    assert (gradient[1, 0] == 0) == (kind == "ppo")
    product, gradient = loss(data, ratio={"denominator": "rollout", "level": "product"})
    assert product.receipt["saturated"] == data["mask"][1].sum()
    assert (gradient[1] == 0).all()


def test_what_the_weight_masks_still_feels_the_reference():
    data = batch(rows=20)
    mask = data["mask"]
    weight = {**MASKED, "level": "token"}
    plain, without = loss(data, weight=weight)
    out, gradient = loss(data, weight=weight, reference_kl={"coef": 0.5, "estimator": "k2"})
    assert not plain.keep[mask].all()
    d = (data["logp_reference"] - data["logp"])[mask]
    extra = 0.5 * (d**2 / 2).mean()
    assert (out.loss - plain.loss).item() == pytest.approx(extra.item(), abs=1e-12)
    assert_close((gradient - without)[mask], -0.5 * d / mask.sum(), atol=1e-12, rtol=0)
    assert out.receipt["reference_kl"].item() == pytest.approx((d**2 / 2).sum().item())


def test_more_responses_than_tokens_and_no_turns_given():
    log_ratio = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    got = reduce_to_level(log_ratio, mask, "turn")
    assert_close(got, torch.tensor([[0.3, 0.3], [0.3, 0.0], [1.1, 1.1]]))


def test_a_missing_policy_is_named():
    data = batch()
    arguments = {key: data[key] for key in ("logp_rollout", "mask", "advantage")}
    rule = {"statistic": "ratio", "upper": 2.0, "normalizer": "shrink"}
    for of, message in (("mismatch", "pass logp_old$"), ("bypass", "pass logp$")):
        config = ObjectiveConfig(reject=[{**rule, "of": of}])
        with pytest.raises(ValueError, match=message):
            normalizer_sums(logp=None, logp_old=None, **arguments, config=config)


def test_a_single_token_rejected_is_a_response_rejected():
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    mask = torch.tensor([[True, False, False], [False, False, False]])
    config = ObjectiveConfig(reject=[{"statistic": "ratio", "lower": 2.0}])
    got = mismatch_correction(
        logp_old=zeros, logp_rollout=zeros, mask=mask, weight=config.weight, reject=config.reject
    ).receipt
    assert number(got) == {"tokens": 1, "rejected": 1, "rejected_sequences": 1}


def test_only_what_shrinks_leaves_the_denominator_and_only_negative_advantages_are_sign_conditioned():
    ratio = torch.tensor([[0.5, 1.0, 1.0, 3.0, 1.0]], dtype=torch.float64)
    data = {
        "logp": ratio.log(),
        "logp_old": torch.zeros_like(ratio),
        "logp_rollout": torch.zeros_like(ratio),
        "mask": torch.ones(1, 5),
        "advantage": torch.tensor([[0.5, 1.0, 1.0, 0.5, 1.0]], dtype=torch.float64),
    }
    rules = [
        {"statistic": "ratio", "of": "bypass", "upper": 2.0, "normalizer": "keep"},
        {"statistic": "ratio", "of": "bypass", "lower": 0.8, "normalizer": "shrink"},
    ]
    for order in (rules, rules[::-1]):
        out, _ = loss(data, reject=order)
        assert out.loss.item() == pytest.approx(
            -3 / 4
        )  # of five tokens two are gone, one still counts
    signed = {**rules[1], "when": "negative_advantage"}
    data["advantage"] = torch.tensor([[-0.5, 0.0, 0.5, -0.5, 0.5]], dtype=torch.float64)
    data["logp"] = torch.tensor([[0.5, 0.5, 0.5, 1.0, 1.0]], dtype=torch.float64).log()
    out, _ = loss(data, reject=[signed])
    assert out.keep.tolist() == [[False, True, True, True, True]]


@pytest.mark.parametrize("reduce", ["token", "mean", "sum", "min", "max"])
@pytest.mark.parametrize("statistic", ["k1", "k2", "k3", "prob_gap"])
def test_what_is_masked_is_in_no_statistic(statistic, reduce):
    """Garbage where nothing is valid; a bound between the responses' values, found from the valid tokens."""
    data = batch(rows=20)
    mask = data["mask"]
    d, gap = data["logp_old"] - data["logp_rollout"], data["logp_old"].exp() - data["logp_rollout"].exp()  # fmt: skip
    values = {"k1": -d, "k2": d**2 / 2, "k3": d.exp() - 1 - d, "prob_gap": gap.abs()}[statistic]
    rows = [row[valid] for row, valid in zip(values, mask, strict=True)]
    if reduce != "token":
        reducers = {"mean": torch.mean, "sum": torch.sum, "min": torch.amin, "max": torch.amax}
        rows = [reducers[reduce](row).expand_as(row) for row in rows]
    statistics = torch.cat(rows)
    ordered = statistics.unique()
    bound = ordered[len(ordered) * 3 // 5 :][:2].mean().item()
    rule = {"statistic": statistic, "reduce": reduce, "upper": bound, "normalizer": "shrink"}
    out, _ = loss(data, reject=[rule], surrogate={"kind": "reinforce"})
    assert torch.equal(out.keep[mask], statistics <= bound)
    ratio, a = out.ratio[mask], by_token(data)
    expected = -(ratio * a * data["logp"][mask])[out.keep[mask]].mean()
    assert out.loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("level", ["token", "geometric", "product"])
def test_a_band_away_from_one_counts_no_masked_token(level):
    data = batch(rows=20)
    mask = data["mask"]
    rules = [
        {"statistic": "ratio", "level": level, "lower": 1.05, "normalizer": "shrink"},
        {"statistic": "ratio", "lower": 0.7, "normalizer": "shrink"},
    ]
    out, _ = loss(data, reject=rules, surrogate={"kind": "reinforce"})
    log_ratio = data["logp_old"] - data["logp_rollout"]
    x = reduce_to_level(log_ratio, mask, level).exp()[mask]
    keep = (x >= 1.05) & (log_ratio[mask].exp() >= 0.7)
    assert torch.equal(out.keep[mask], keep)
    expected = -(out.ratio[mask] * by_token(data) * data["logp"][mask])[keep].mean()
    assert out.loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("rule", "inside"),
    [
        ({"statistic": "ratio", "upper": 1e12}, True),
        ({"statistic": "ratio", "level": "product", "upper": 1e8}, False),
        ({"statistic": "k2", "upper": 201.0}, True),
        ({"statistic": "k2", "upper": 199.0}, False),
        ({"statistic": "k1", "reduce": "min", "lower": -21.0}, True),
    ],
)
def test_rejections_see_log_ratios_of_at_most_20_nats(rule, inside):
    config = ObjectiveConfig(reject=[rule])
    got = mismatch_correction(
        logp_old=torch.zeros(1, 1), logp_rollout=torch.full((1, 1), -30.0), mask=torch.ones(1, 1),
        weight=config.weight, reject=config.reject,
    )  # fmt: skip
    assert got.keep.item() is inside


def test_a_masked_token_is_neither_the_largest_nor_the_smallest():
    old, zeros = torch.full((1, 3), -1.0), torch.full((1, 3), -1.5)
    mask = torch.tensor([[True, True, False]])
    for rule, stays in (
        (
            {"statistic": "k1", "reduce": "max", "lower": -0.4},
            False,
        ),  # both are -0.5, the masked one 0
        (
            {"statistic": "k2", "reduce": "min", "lower": 0.1},
            True,
        ),  # both are 0.125, the masked one 0
    ):
        config = ObjectiveConfig(reject=[rule])
        rollout = torch.where(mask, zeros, old)
        got = mismatch_correction(
            logp_old=old,
            logp_rollout=rollout,
            mask=mask,
            weight=config.weight,
            reject=config.reject,
        )
        assert got.keep[0, 0].item() is stays
