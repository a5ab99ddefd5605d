"""Classes of settings that must be one method, and changes of the batch that must change nothing."""

import pytest
import torch
from torch.testing import assert_close

from alpkit.config import PRESETS, ObjectiveConfig
from alpkit.objective import policy_loss

LEVELS = ("token", "cumulative", "cumulative_geometric", "turn", "cumulative_turn", "geometric", "product")  # fmt: skip
# Score centering needs candidates besides: test_centering.py.
ALL = sorted(name for name in PRESETS if not name.startswith("score-centering"))


def batch(rows=5, tok=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(4, rows, tok, dtype=torch.float64, generator=generator)
    mu = -draw[0].abs()
    old = mu + 0.1 * draw[1]
    length = torch.randint(1, tok + 1, (rows, 1), generator=generator)
    return {
        "logp": old + 0.2 * draw[2],
        "logp_old": old,
        "logp_rollout": mu,
        "logp_reference": mu + 0.3 * draw[3],
        "mask": torch.arange(tok) < length,
        "advantage": torch.randn(rows, dtype=torch.float64, generator=generator),
        "turn": torch.zeros(rows, tok, dtype=torch.long),
    }


def loss(data, **axes):
    config = ObjectiveConfig.model_validate(axes)
    logp = data["logp"].clone().requires_grad_(True)
    out = policy_loss(**{**data, "logp": logp}, config=config)
    out.loss.backward()
    return out.loss.item(), logp.grad, out


def of(name):
    return PRESETS[name].settings["objective"]


@pytest.mark.parametrize("denominator", ["old", "rollout"])
def test_on_responses_of_one_token_all_levels_are_one(denominator):
    data = batch()
    data["mask"] = torch.arange(7).expand(5, 7) == 0
    results = [loss(data, ratio={"denominator": denominator, "level": level}) for level in LEVELS]
    weight = {"action": "truncate", "upper": 1.02}
    weights = [loss(data, weight={**weight, "level": level}) for level in LEVELS]
    for group in (results, weights):
        for value, gradient, _ in group:
            assert value == pytest.approx(group[0][0], abs=1e-14)
            assert_close(gradient, group[0][1])


@pytest.mark.parametrize("name", ALL)
def test_order_of_responses_and_appended_padding_change_nothing(name):
    data = batch()
    value, gradient, _ = loss(data, **of(name))
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = {key: x[order] for key, x in data.items()}
    again, moved, _ = loss(shuffled, **of(name))
    assert again == pytest.approx(value, abs=1e-12)
    assert_close(moved, gradient[order], atol=1e-12, rtol=0)
    if "fixed_length" in of(name).get("aggregate", ""):
        return  # divides by the padded length
    wider = {
        key: x if x.ndim == 1 else torch.cat([x, torch.zeros_like(x[:, :3])], dim=1)
        for key, x in data.items()
    }
    again, padded, _ = loss(wider, **of(name))
    assert again == pytest.approx(value, abs=1e-12)
    assert_close(padded[:, :7], gradient, atol=1e-12, rtol=0)
    assert (padded[:, 7:] == 0).all()


def test_bounds_that_nothing_meets_are_no_correction():
    data = batch()
    value, gradient, _ = loss(data)
    rules = [
        {"statistic": "ratio", "level": "product", "lower": 1e-8, "upper": 1e8, "normalizer": "shrink"},
        {"statistic": "k3", "reduce": "max", "upper": 1e6},
        {"statistic": "prob_gap", "reduce": "sum", "upper": 100.0},
    ]  # fmt: skip
    again, same, out = loss(data, reject=rules)
    assert again == value
    assert torch.equal(same, gradient)
    assert out.receipt["rejected"] == 0
    unclipped = {"epsilon_low": 1.0, "epsilon_high": 1e9}
    capped = {**unclipped, "dual_clip": 1e9}
    assert loss(data, surrogate=unclipped)[0] == loss(data, surrogate=capped)[0]


def test_a_geometric_ratio_is_the_product_to_the_power_of_one_over_length():
    data = batch()
    *_, geometric = loss(data, ratio={"level": "geometric"})
    *_, product = loss(data, ratio={"level": "product"})
    length = data["mask"].sum(dim=1)
    assert_close(geometric.ratio[:, 0] ** length, product.ratio[:, 0])


def test_turns_of_a_response_are_ratios_of_their_own():
    data = batch(rows=2, tok=4)
    data["mask"] = torch.ones(2, 4, dtype=torch.bool)
    data["turn"] = torch.tensor([[0, 0, 1, 1]] * 2)
    *_, turn = loss(data, ratio={"level": "turn"})
    gap = (data["logp"] - data["logp_old"]).reshape(2, 2, 2).sum(dim=2).repeat_interleave(2, dim=1)
    assert_close(turn.ratio, gap.exp())
    *_, cumulative = loss(data, ratio={"level": "cumulative_turn"})
    assert_close(cumulative.ratio[:, 3], (data["logp"] - data["logp_old"]).sum(dim=1).exp())


def test_the_first_update_of_a_rollout():
    """theta = theta_old: grpo's ratio is 1, the bypass ratio is w."""
    data = batch()
    data["logp"] = data["logp_old"].clone()
    *_, grpo = loss(data)
    *_, bypass = loss(data, **of("token-bypass"))
    mask = data["mask"]
    assert (grpo.ratio == 1).all()
    assert_close(bypass.ratio[mask], (data["logp_old"] - data["logp_rollout"]).exp()[mask])


def test_half_precision_inputs_are_widened():
    data = batch()
    half = {k: x.bfloat16() if x.is_floating_point() else x for k, x in data.items()}
    value, gradient, out = loss(half)
    assert gradient.dtype == torch.bfloat16
    assert out.ratio.dtype == torch.float32
    assert value == pytest.approx(loss(data)[0], abs=0.05)


@pytest.mark.parametrize(
    "aggregate",
    ["token_mean", "token_mean_per_micro_batch", "seq_mean_token_sum", "seq_mean_token_mean"],
)
def test_a_single_valid_token_counts_once(aggregate):
    data = batch(rows=2, tok=3)
    data["logp"] = data["logp_old"].clone()
    data["mask"] = torch.tensor([[True, False, False], [False] * 3])
    value, gradient, _ = loss(data, aggregate=aggregate)
    assert value == pytest.approx(-data["advantage"][0].item(), abs=1e-14)
    assert gradient[0, 0].item() == pytest.approx(-data["advantage"][0].item(), abs=1e-14)
