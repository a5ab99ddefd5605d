"""Rejections, normalised weights, reference KL and receipts, against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.testing import assert_close

from alpkit.config import ObjectiveConfig, RunConfig, WeightConfig
from alpkit.config.objective import ReferenceKLConfig
from alpkit.objective import (
    mismatch_correction,
    normalizer_sums,
    policy_loss,
    reference_kl,
    whole_batch,
)

MU = [[-1, -0.5, -2, -0.1], [-3, -0.2, -0.7, -1], [-4, -1.5, -0.3, -9]]
OLD = [[-1.02, -0.49, -2.1, -0.11], [-2.8, -0.21, -0.72, -1], [-5, -1.9, -0.31, -9]]
LP = [[-0.9, -0.4, -1.7, -0.1], [-2.2, -0.15, -0.65, -1], [-6.5, -2, -0.29, -9]]
MU, OLD, LP = (torch.tensor(x, dtype=torch.float64) for x in (MU, OLD, LP))
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]], dtype=torch.bool)
ADVANTAGE = torch.tensor([1, -0.8, -1.2], dtype=torch.float64)
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.28}
PLAIN = {"of": "mismatch", "normalizer": "shrink"}


def loss(
    lp=LP,
    *,
    mask=MASK,
    mu=MU,
    old=OLD,
    advantage=ADVANTAGE,
    reference=None,
    normalizer=None,
    **axes,
):
    logp = lp.clone().requires_grad_(True)
    out = policy_loss(
        logp=logp, logp_old=old, logp_rollout=mu, mask=mask, advantage=advantage,
        config=ObjectiveConfig(**axes), logp_reference=reference, normalizer=normalizer,
    )  # fmt: skip
    out.loss.backward()
    return out, logp.grad


def correction(*rules, mask=MASK, **weight):
    config = ObjectiveConfig(reject=rules, **({"weight": weight} if weight else {}))
    return mismatch_correction(
        logp_old=OLD, logp_rollout=MU, mask=mask, weight=config.weight, reject=config.reject
    )


def test_the_published_rejections_at_cap_1_1():
    band = {"statistic": "ratio", "lower": 1 / 1.1, "upper": 1.1, **PLAIN}
    token, _ = loss(surrogate=CLIP, reject=[band])
    assert token.loss.item() == pytest.approx(-0.050001, abs=1e-6)
    assert token.keep.sum() == 6
    both, _ = loss(
        surrogate=CLIP, reject=[band], weight={"action": "truncate", "level": "token", "upper": 1.1}
    )
    assert both.loss.item() == pytest.approx(-0.052708, abs=1e-6)
    geometric, _ = loss(surrogate=CLIP, reject=[{**band, "level": "geometric"}])
    assert geometric.loss.item() == pytest.approx(-0.192364, abs=1e-6)
    assert geometric.keep.any(dim=1).tolist() == [True, True, False]
    product, grad = loss(surrogate=CLIP, reject=[{**band, "level": "product"}])
    assert product.loss.item() == 0
    assert grad.abs().max() == 0
    assert product.receipt["rejected_sequences"] == 3
    veto = correction({"statistic": "k1", "reduce": "max", "upper": -math.log(0.5), **PLAIN})
    assert veto.keep.any(dim=1).tolist() == [True, True, False]


def test_a_rejection_that_keeps_the_denominator_scales_the_loss_by_what_survives():
    band = {"statistic": "ratio", "lower": 1 / 1.1, "upper": 1.1}
    shrunk, gradient = loss(surrogate=CLIP, reject=[{**band, "normalizer": "shrink"}])
    kept, smaller = loss(surrogate=CLIP, reject=[{**band, "normalizer": "keep"}])
    assert kept.loss.item() == pytest.approx(shrunk.loss.item() * 6 / 10, rel=1e-12)
    assert_close(smaller, gradient * 0.6)
    assert kept.receipt["rejected"] == 4


W = (OLD - MU)[MASK]


@pytest.mark.parametrize(
    ("statistic", "per_token"),
    [
        ("k1", -W),
        ("k2", W**2 / 2),
        ("k3", W.exp() - 1 - W),
        ("prob_gap", (OLD.exp() - MU.exp()).abs()[MASK]),
    ],
)
@pytest.mark.parametrize("reduce", ["token", "mean", "sum", "min", "max"])
def test_every_statistic_and_reduction(statistic, per_token, reduce):
    rows = torch.zeros(3, 4, dtype=torch.float64)
    rows[MASK] = per_token
    reducers = {"mean": torch.mean, "sum": torch.sum, "min": torch.min, "max": torch.max}
    if reduce == "token":
        values = rows
    else:
        one = [reducers[reduce](row[m]) for row, m in zip(rows, MASK, strict=True)]
        values = torch.stack(one)[:, None].expand(3, 4)
    ordered = values[MASK].unique()
    bound = (ordered[-1] + ordered[-2]).item() / 2  # between the two largest
    got = correction({"statistic": statistic, "reduce": reduce, "upper": bound})
    assert torch.equal(got.keep, MASK & (values <= bound))
    assert (got.weight[MASK & ~got.keep] == 0).all()
    low = (ordered[0] + ordered[1]).item() / 2
    if statistic == "k1" or low > 0:
        got = correction({"statistic": statistic, "reduce": reduce, "lower": low})
        assert torch.equal(got.keep, MASK & (values >= low))


def test_bounds_are_inclusive_and_rules_combine_by_and():
    logp = torch.log(torch.tensor([[0.5, 2.0, 2.1, 0.4, 1.0]], dtype=torch.float64))
    mask = torch.ones(1, 5)
    rules = ObjectiveConfig(
        reject=[
            {"statistic": "ratio", "upper": 2.0},
            {"statistic": "ratio", "lower": 0.5, "normalizer": "shrink"},
        ]
    ).reject
    got = mismatch_correction(
        logp_old=logp, logp_rollout=torch.zeros(1, 5, dtype=torch.float64), mask=mask,
        weight=WeightConfig(), reject=rules,
    )  # fmt: skip
    assert got.keep.tolist() == [[True, True, False, False, True]]
    assert got.receipt["rejected"] == 2
    assert got.receipt["rejected_sequences"] == 0


@pytest.mark.parametrize(
    ("reduce", "log_weight", "bound"),
    [("max", [[2.0, 3.0, 0.0]], {"upper": -1.5}), ("min", [[-2.0, -3.0, 0.0]], {"lower": 1.5})],
)
def test_a_masked_token_is_no_extreme(reduce, log_weight, bound):
    """k1 of the valid tokens is -2 and -3 (2 and 3): beyond what a masked token's 0 or 1 would be."""
    old = torch.tensor(log_weight, dtype=torch.float64)
    config = ObjectiveConfig(reject=[{"statistic": "k1", "reduce": reduce, **bound}])
    got = mismatch_correction(
        logp_old=old, logp_rollout=torch.zeros_like(old), mask=torch.tensor([[1, 1, 0]]),
        weight=config.weight, reject=config.reject,
    )  # fmt: skip
    assert got.keep.tolist() == [[True, True, False]]


RAW = [[0.25, 0.5, 1.0, 2.0, 4.0, 8.0], [1.5, 8.0, 8.0, 8.0, 8.0, 0.1]]
RAW_MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]], dtype=torch.bool)


def weighed(**settings):
    log_weight = torch.log(torch.tensor(RAW, dtype=torch.float64))
    return mismatch_correction(
        logp_old=log_weight, logp_rollout=torch.zeros_like(log_weight), mask=RAW_MASK,
        weight=WeightConfig(**settings), reject=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "weights", "receipt"),
    [
        ({"action": "truncate", "upper": 2.0}, [0.25, 0.5, 1, 2, 2, 1.5],
         {"truncated": 1, "weight_raw": 9.25, "weight_removed": 2}),
        ({"action": "clip", "lower": 0.5, "upper": 2.0}, [0.5, 0.5, 1, 2, 2, 1.5],
         {"truncated": 1, "raised": 1, "weight_raw": 9.25, "weight_removed": 2}),
        ({"action": "mask", "lower": 0.5, "upper": 2.0}, [0, 0.5, 1, 2, 0, 1.5],
         {"masked": 2, "weight_raw": 9.25, "weight_removed": 4.25}),
        ({"action": "mask", "upper": 2.0}, [0.25, 0.5, 1, 2, 0, 1.5],
         {"masked": 1, "weight_raw": 9.25, "weight_removed": 4}),
    ],
)  # fmt: skip
def test_every_action_on_weights_at_and_beyond_its_bounds(settings, weights, receipt):
    """Bounds themselves are inside; what is masked counts nowhere; the mean is the valid tokens'."""
    got = weighed(**settings)
    expected = torch.tensor(weights, dtype=torch.float64)
    assert_close(got.weight[RAW_MASK], expected)
    assert (got.weight[~RAW_MASK] == 1).all()
    found = {key: value.item() for key, value in got.receipt.items()}
    assert found == pytest.approx({"tokens": 6, **receipt})
    assert torch.equal(got.keep[RAW_MASK], expected > 0)
    assert not got.keep[~RAW_MASK].any()
    normal = weighed(**settings, normalize="batch")
    assert_close(normal.weight[RAW_MASK], expected / expected.mean())


def test_log_weights_are_clamped_at_20_nats():
    old = torch.tensor([[-60.0, -10.0, -30.0, -29.0]], dtype=torch.float64)
    weight = WeightConfig(action="truncate", upper=1e12)
    got = mismatch_correction(
        logp_old=old, logp_rollout=torch.full_like(old, -30.0), mask=torch.ones(1, 4),
        weight=weight, reject=(),
    ).weight.log()  # fmt: skip
    assert_close(got, torch.tensor([[-20.0, 20.0, 0.0, 1.0]], dtype=torch.float64))
    reverse = mismatch_correction(
        logp_old=torch.full_like(old, -60.0), logp_rollout=old, mask=torch.ones(1, 4),
        weight=weight, reject=(),
    ).weight.log()  # fmt: skip
    assert_close(reverse, torch.tensor([[0.0, -20.0, -20.0, -20.0]], dtype=torch.float64))


def test_opsm_drops_only_what_was_bad_and_has_become_unlikely():
    rule = {
        "statistic": "k1",
        "of": "bypass",
        "reduce": "mean",
        "upper": 0.2,
        "when": "negative_advantage",
    }
    gap = [(MU - LP)[i][MASK[i]].mean().item() for i in range(3)]
    assert [g > 0.2 for g in gap] == [False, False, True]
    out, _ = loss(reject=[rule])
    assert out.keep.any(dim=1).tolist() == [True, True, False]
    flipped, _ = loss(reject=[rule], advantage=-ADVANTAGE)
    assert flipped.keep.any(dim=1).all()
    with pytest.raises(ValueError, match="pass logp"):
        correction(rule)
    with pytest.raises(ValueError, match="use policy_loss"):
        correction({**rule, "of": "mismatch"})


def test_mixed_signs_within_a_response_lose_only_their_negative_tokens():
    advantage = torch.tensor([[1.0, -1, 1, -1]]).expand(3, 4).double()
    rule = {"statistic": "k1", "reduce": "max", "upper": -9.0, "when": "negative_advantage"}
    out, _ = loss(reject=[rule], advantage=advantage)
    assert torch.equal(out.keep, MASK & (advantage > 0))


@pytest.mark.parametrize("level", ["token", "cumulative", "product", "geometric"])
def test_batch_normalisation_makes_the_mean_one(level):
    raw = correction(action="truncate", level=level, upper=1.1)
    got = correction(action="truncate", level=level, upper=1.1, normalize="batch")
    if level in ("token", "cumulative"):
        mean = raw.weight[MASK].mean()
    else:
        mean = raw.weight[:, 0].mean()  # one per response: short ones count as much
    assert_close(got.weight[MASK], raw.weight[MASK] / mean)
    assert (got.weight[~MASK] == 1).all()


def test_icepop_normalised_amplifies_what_it_keeps():
    raw = correction(action="mask", lower=0.9, upper=1.1)
    got = correction(action="mask", lower=0.9, upper=1.1, normalize="batch")
    assert (got.weight[raw.keep] > raw.weight[raw.keep]).all()
    nothing = correction(action="mask", lower=50, upper=60, normalize="batch")
    assert (nothing.weight[MASK] == 0).all()


SPLIT = [
    {"reject": [{"statistic": "ratio", "lower": 0.9, "upper": 1.1, "normalizer": "shrink"}]},
    {"reject": [{"statistic": "k3", "reduce": "mean", "upper": 0.05, "normalizer": "shrink"}]},
    {"reject": [{"statistic": "k1", "of": "bypass", "upper": 0.1, "normalizer": "shrink"}]},
    {"weight": {"action": "truncate", "upper": 1.1, "normalize": "batch"}},
    {"weight": {"action": "mask", "level": "product", "upper": 1.1, "normalize": "batch"}},
    {"reference_kl": {"coef": 0.1, "estimator": "k3_straight_through"}},
    {
        "weight": {"action": "truncate", "upper": 1.05, "normalize": "batch"},
        "reject": [{"statistic": "ratio", "lower": 0.9, "upper": 1.1, "normalizer": "shrink"}],
    },
]


@pytest.mark.parametrize("axes", SPLIT)
@pytest.mark.parametrize(
    "aggregate", ["token_mean", "seq_mean_token_sum", "seq_mean_token_mean", "fixed_length_mean"]
)
def test_micro_batches_equal_one_batch_when_denominators_shrink(axes, aggregate):
    axes = {**axes, "aggregate": aggregate}
    whole, gradient = loss(reference=OLD, **axes)
    config = ObjectiveConfig(**axes)
    rows = [slice(0, 1), slice(1, 3)]
    sums = [
        normalizer_sums(
            logp=LP[r], logp_old=OLD[r], logp_rollout=MU[r], mask=MASK[r],
            advantage=ADVANTAGE[r], config=config,
        )
        for r in rows
    ]  # fmt: skip
    normalizer = whole_batch(sums, config, fixed_length=4)
    parts = [
        loss(LP[r], mask=MASK[r], mu=MU[r], old=OLD[r], advantage=ADVANTAGE[r], reference=OLD[r],
             normalizer=normalizer, **axes)
        for r in rows
    ]  # fmt: skip
    assert sum(p[0].loss.item() for p in parts) == pytest.approx(whole.loss.item(), abs=1e-12)
    assert_close(torch.cat([p[1] for p in parts]), gradient, atol=1e-12, rtol=0)
    for key, value in whole.receipt.items():
        assert sum(p[0].receipt[key] for p in parts).item() == pytest.approx(value.item(), abs=1e-9)


@pytest.mark.parametrize("valid", [0, 1])
@pytest.mark.parametrize("level", ["token", "product"])
def test_the_mean_weight_of_little_and_of_nothing(level, valid):
    """One valid token in one response is a mean of its own; no valid token at all is a mean of 0."""
    weight = {"action": "truncate", "level": level, "upper": 9.0, "normalize": "batch"}
    config, mask = ObjectiveConfig(weight=weight), torch.zeros_like(MASK)
    mask[1, :valid] = True
    sums = normalizer_sums(
        logp=LP, logp_old=OLD, logp_rollout=MU, mask=mask, advantage=ADVANTAGE, config=config
    )
    found = whole_batch([sums], config, fixed_length=4)
    expected = valid * (OLD - MU)[1, 0].exp().item()
    assert found.mean_weight.item() == pytest.approx(expected, abs=1e-12)
    assert found.loss.item() == 1


def test_a_number_is_no_normalizer_for_normalised_weights():
    with pytest.raises(ValueError, match="pass the Normalizer of whole_batch"):
        loss(weight={"action": "truncate", "normalize": "batch"}, normalizer=10.0)


def test_the_reference_aggregation_is_the_mean_of_micro_batch_means_weighted_by_rows():
    axes = {"surrogate": CLIP, "aggregate": "token_mean_per_micro_batch"}
    config = ObjectiveConfig(**axes)
    rows = [slice(0, 1), slice(1, 3)]
    sums = [
        normalizer_sums(logp=LP[r], logp_old=OLD[r], logp_rollout=MU[r], mask=MASK[r],
                        advantage=ADVANTAGE[r], config=config)
        for r in rows
    ]  # fmt: skip
    normalizer = whole_batch(sums, config, fixed_length=4)
    got = sum(
        loss(LP[r], mask=MASK[r], mu=MU[r], old=OLD[r], advantage=ADVANTAGE[r], normalizer=normalizer, **axes)[0].loss
        for r in rows
    )  # fmt: skip
    means = [
        loss(LP[r], mask=MASK[r], mu=MU[r], old=OLD[r], advantage=ADVANTAGE[r], surrogate=CLIP)[0].loss
        for r in rows
    ]  # fmt: skip
    assert got.item() == pytest.approx((means[0] * 1 / 3 + means[1] * 2 / 3).item(), abs=1e-12)
    assert got.item() != pytest.approx(loss(surrogate=CLIP)[0].loss.item(), abs=1e-4)


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [
        ("k1", lambda d: -d, lambda d: torch.ones_like(d)),
        ("k2", lambda d: d**2 / 2, lambda d: -d),
        ("k3", lambda d: d.exp() - 1 - d, lambda d: 1 - d.exp()),
        ("k3_straight_through", lambda d: d.exp() - 1 - d, lambda d: -d),
    ],
)
def test_reference_kl(estimator, value, slope):
    d = torch.tensor([[-1.5, -0.1, 0.0, 0.3, 2.0]], dtype=torch.float64)
    got = reference_kl(d, ReferenceKLConfig(coef=1, estimator=estimator))
    assert_close(got.value, value(d))
    assert_close(got.slope, slope(d))
    if estimator != "k3_straight_through":
        logp = torch.zeros_like(d).requires_grad_(True)
        value(d - logp).sum().backward()
        assert_close(got.slope, logp.grad)
    axes = {"reference_kl": {"coef": 0.5, "estimator": estimator}}
    out, grad = loss(reference=OLD, **axes)
    plain, plain_grad = loss()
    gap = (OLD - LP)[MASK]
    assert (out.loss - plain.loss).item() == pytest.approx(
        0.5 * value(gap).mean().item(), abs=1e-12
    )
    assert_close((grad - plain_grad)[MASK], 0.5 * slope(gap) / 10, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="pass logp_reference"):
        loss(**axes)


def test_the_kl_of_rejected_tokens_is_left_out():
    rule = {"statistic": "ratio", "lower": 50.0}
    out, grad = loss(reject=[rule], reference=OLD, reference_kl={"coef": 1.0})
    assert out.loss == 0
    assert grad.abs().max() == 0


def test_gradients_are_those_of_autograd():
    """The written-out slopes against torch's own derivative of the same formulas, token level."""
    for kind, dual in (("ppo", None), ("ppo", 1.5), ("cispo", None), ("reinforce", None)):
        clip = {} if kind == "reinforce" else CLIP
        _, grad = loss(surrogate={"kind": kind, **clip, **({"dual_clip": dual} if dual else {})})
        logp = LP.clone().requires_grad_(True)
        ratio, a = (logp - OLD).exp(), ADVANTAGE[:, None]
        if kind == "ppo":
            each = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.28))
            if dual:
                each = torch.where(a < 0, torch.minimum(-a * dual, each), each)
        elif kind == "cispo":
            each = -ratio.detach().clamp(0.8, 1.28) * a * logp
        else:
            each = -ratio.detach() * a * logp
        (each[MASK].sum() / 10).backward()
        assert_close(grad, logp.grad, atol=1e-12, rtol=0)


def test_receipts_by_side_and_sign_and_removed_advantage():
    ratio = torch.tensor([[0.5, 1.5, 1.0, 0.5, 1.5]], dtype=torch.float64)
    advantage = torch.tensor([[1.0, 2.0, 4.0, -1.0, -3.0]], dtype=torch.float64)
    zeros, mask = torch.zeros(1, 5, dtype=torch.float64), torch.ones(1, 5)
    rule = {"statistic": "ratio", "of": "bypass", "upper": 1.2}
    out, _ = loss(ratio.log(), mask=mask, mu=zeros, old=zeros, advantage=advantage, reject=[rule])
    got = {key: value.item() for key, value in out.receipt.items()}
    assert [
        got[f"outside_{k}"]
        for k in ("low_negative", "low_positive", "high_negative", "high_positive")
    ] == [1] * 4
    assert (got["clipped_low"], got["clipped_high"]) == (1, 1)
    assert (got["rejected"], got["removed_negative"], got["removed_positive"]) == (2, 1, 1)
    assert (got["advantage"], got["advantage_removed"]) == (11, 5)
    assert got["surviving"] == 2  # 0.5 with A > 0, and 1.0; 0.5 with A < 0 is clipped
    assert got["sequences"] == 1


def test_valid_tokens_without_a_finite_log_prob_are_left_out_and_counted():
    spoiled = MU.clone()
    spoiled[0, 1] = -torch.inf
    out, grad = loss(mu=spoiled, weight={"action": "truncate"})
    assert out.receipt["nonfinite"] == 1
    assert out.receipt["tokens"] == 9
    assert grad[0, 1] == 0
    assert torch.isfinite(grad).all()
    assert not out.keep[0, 1]


finite = st.floats(-8, 0.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(finite, finite, st.booleans()), min_size=2, max_size=12),
    st.sampled_from(["k1", "k2", "k3", "prob_gap"]),
    st.sampled_from(["token", "mean", "sum", "min", "max"]),
)
def test_rejection_only_removes_valid_tokens_and_whole_responses_go_together(
    rows, statistic, reduce
):
    old, mu, mask = (torch.tensor([list(column)]) for column in zip(*rows, strict=True))
    config = ObjectiveConfig(reject=[{"statistic": statistic, "reduce": reduce, "upper": 0.3}])
    got = mismatch_correction(
        logp_old=old, logp_rollout=mu, mask=mask, weight=config.weight, reject=config.reject
    )
    assert not (got.keep & ~mask).any()
    if reduce != "token":
        assert got.keep.sum() in (0, mask.sum())
    assert got.receipt["rejected"] == (mask & ~got.keep).sum()
    assert not got.weight.requires_grad


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"reject": [{"statistic": "ratio"}]}, "set a bound"),
        ({"reject": [{"statistic": "ratio", "lower": 0, "upper": 2}]}, "lower is in ratio units"),
        ({"reject": [{"statistic": "k3", "lower": 0.0, "upper": 1}]}, "lower does nothing"),
        ({"reject": [{"statistic": "prob_gap", "upper": 1.0}]}, "upper does nothing"),
        ({"reject": [{"statistic": "k2", "upper": -1}]}, "rejects everything"),
        ({"reject": [{"statistic": "ratio", "lower": 2, "upper": 1}]}, "must be below upper"),
        ({"reject": [{"statistic": "ratio", "reduce": "mean", "upper": 2}]}, "Extra inputs"),
        ({"reject": [{"statistic": "k3", "level": "product", "upper": 2}]}, "Extra inputs"),
        ({"reference_kl": {"estimator": "k1"}}, "estimator does nothing without a coef"),
        ({"reference_kl": {"value_clamp": 10}}, "value_clamp does nothing without a coef"),
        ({"reference_kl": {"coef": 1, "value_clamp": 0}}, "greater than 0"),
        ({"weight": {"upper": 3.0}}, "nothing would be weighted"),
        ({"weight": {"normalize": "batch"}}, "nothing would be weighted"),
        ({"weight": {"action": "truncate", "of": "bypass"}}, "staleness would count twice"),
        ({"weight": {"action": "mask"}, "ratio": {"denominator": "rollout"}}, "mismatch twice"),
        ({"ratio": {"denominator": "current"}}, "clip can never act"),
        ({"ratio": {"denominator": "current", "level": "product"}}, "level does nothing"),
        ({"surrogate": {"kind": "cispo", "dual_clip": 3}}, "no use for it"),
    ],
)  # fmt: skip
def test_what_cannot_act_or_counts_twice_is_refused(axes, message):
    with pytest.raises(ValidationError, match=message):
        ObjectiveConfig(**axes)


def test_spellings_without_effect_have_one_hash():
    ids = {
        RunConfig(objective=axes).cell_id()
        for axes in (
            {},
            {
                "reference_kl": {
                    "coef": 0.0,
                    "estimator": "k1",
                    "log_ratio_clamp": 5,
                    "value_clamp": 1,
                }
            },
            {"weight": {"action": "none"}},
            {"reject": []},
        )
    }
    assert len(ids) == 1


@pytest.mark.parametrize("task", ["addition", "reasoning_gym"])
@pytest.mark.parametrize("level", ["turn", "cumulative_turn"])
def test_turn_levels_are_refused_on_tasks_of_one_turn(level, task):
    """They are the product there: the arm would train the same weights under another cell id."""
    given = {"name": task, "dataset": "chain_sum"} if task == "reasoning_gym" else {"name": task}
    for axes in (
        {"ratio": {"level": level}},
        {"weight": {"action": "truncate", "level": level}},
    ):
        section = next(iter(axes))
        message = rf"objective.{section}.level: in responses of one turn, {level} is the product"
        with pytest.raises(ValidationError, match=message):
            RunConfig(objective=axes, task=given)
        ObjectiveConfig(**axes)  # the objective itself has no task
    RunConfig(objective={"weight": {"action": "none", "level": level}}, task=given)  # dropped


@pytest.mark.parametrize("aggregate", ["seq_mean_token_mean", "token_mean_per_micro_batch"])
def test_rejected_tokens_leave_the_denominator_of_their_own_response(aggregate):
    rule = {"statistic": "ratio", "lower": 0.9, "upper": 1.1, "normalizer": "shrink"}
    out, _ = loss(surrogate=CLIP, reject=[rule], aggregate=aggregate)
    ratio, a = (LP - OLD).exp(), ADVANTAGE[:, None]
    each = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.28))
    rows = [row[kept] for row, kept in zip(each, out.keep, strict=True) if kept.any()]
    by_row = torch.stack([row.mean() for row in rows]).mean()
    expected = by_row if aggregate == "seq_mean_token_mean" else torch.cat(rows).mean()
    assert out.loss.item() == pytest.approx(expected.item(), abs=1e-12)
