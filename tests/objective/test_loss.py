"""The objective against numbers from two independent float64 evaluations and by property."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from alpkit.config import PRESETS, ObjectiveConfig, RunConfig, WeightConfig
from alpkit.config.objective import Aggregate
from alpkit.objective import (
    group_advantage,
    mismatch_correction,
    normalizer_sums,
    policy_loss,
    reduce_to_level,
    surrogate,
    whole_batch,
)

MU = [[-1, -0.5, -2, -0.1], [-3, -0.2, -0.7, -1], [-4, -1.5, -0.3, -9]]
OLD = [[-1.02, -0.49, -2.1, -0.11], [-2.8, -0.21, -0.72, -1], [-5, -1.9, -0.31, -9]]
LP = [[-0.9, -0.4, -1.7, -0.1], [-2.2, -0.15, -0.65, -1], [-6.5, -2, -0.29, -9]]
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]], dtype=torch.bool)
ADVANTAGE = torch.tensor([1, -0.8, -1.2], dtype=torch.float64)
ALP_CLIP = {"epsilon_low": 0.5, "epsilon_high": 3.0}


def run(
    lp=None,
    *,
    mask=MASK,
    mu=None,
    old=None,
    advantage=ADVANTAGE,
    normalizer=None,
    reference=None,
    **axes,
):
    config = ObjectiveConfig(**axes)
    logp = torch.tensor(LP, dtype=torch.float64) if lp is None else lp.clone()
    logp.requires_grad_(True)
    out = policy_loss(
        logp=logp,
        logp_old=torch.tensor(OLD, dtype=torch.float64) if old is None else old,
        logp_rollout=torch.tensor(MU, dtype=torch.float64) if mu is None else mu,
        mask=mask,
        advantage=advantage,
        config=config,
        normalizer=normalizer,
        logp_reference=logp.detach() if reference is None else reference,
    )
    out.loss.backward()
    return out, logp.grad


def bypass(level, dual_clip=None):
    return {
        "ratio": {"denominator": "rollout", "level": level},
        "surrogate": {**ALP_CLIP, "dual_clip": dual_clip},
    }


@pytest.mark.parametrize("dual_clip", [None, 3.0, 10.0])
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("token", 0.144216),
        ("product", 0.110816),
        ("geometric", 0.050707),
        ("cumulative", 0.179582),
        ("cumulative_geometric", 0.135914),
    ],
)
def test_loss_of_each_level_is_the_published_number(level, expected, dual_clip):
    out, _ = run(**bypass(level, dual_clip))
    assert out.loss.item() == pytest.approx(expected, abs=1e-6)


def test_ratios_of_the_sequence_levels():
    product, _ = run(**bypass("product"))
    geometric, _ = run(**bypass("geometric"))
    assert_close(
        product.ratio[:, 0].float(), torch.tensor([1.648721, 2.459603, 0.050287]), atol=1e-6, rtol=0
    )
    assert_close(
        geometric.ratio[:, 0].float(),
        torch.tensor([1.133148, 1.349859, 0.369108]),
        atol=1e-6,
        rtol=0,
    )


def test_gradients_are_the_published_numbers():
    _, token = run(**bypass("token"))
    expected = [
        [-0.110517, -0.110517, -0.134986, -0.1],
        [0.178043, 0.084102, 0.084102, 0],
        [0, 0.072784, 0.121206, 0],
    ]
    assert_close(token, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
    _, product = run(**bypass("product"))
    expected = [[-0.164872] * 4, [0.196768] * 3 + [0], [0] * 4]
    assert_close(product, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("token_mean", 0.110816),
        ("seq_mean_token_sum", 0.369387),
        ("seq_mean_token_mean", 0.306320),
        ("fixed_length_sum", 0.277041),
    ],
)
def test_aggregations(aggregate, expected):
    out, _ = run(**bypass("product"), aggregate=aggregate)
    assert out.loss.item() == pytest.approx(expected, abs=1e-6)


def test_grpo_and_gspo():
    clip = {"epsilon_low": 0.2, "epsilon_high": 0.28}
    out, _ = run(surrogate=clip)
    assert out.loss.item() == pytest.approx(0.192350, abs=1e-6)
    out, _ = run(
        ratio={"denominator": "old", "level": "geometric"},
        surrogate={"epsilon_low": 3e-4, "epsilon_high": 4e-4},
        aggregate="seq_mean_token_mean",
    )
    assert out.loss.item() == pytest.approx(0.406545, abs=1e-6)
    assert_close(
        out.ratio[:, 0].float(), torch.tensor([1.167658, 1.275494, 0.590570]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("action", "level", "expected"),
    [
        ("truncate", "token", 0.121003),
        ("mask", "token", -0.039344),
        ("truncate", "product", 0.027851),
        ("mask", "product", -0.320318),
    ],
)
def test_weighted_grpo_at_cap_1_1(action, level, expected):
    out, _ = run(
        surrogate={"epsilon_low": 0.2, "epsilon_high": 0.28},
        weight={"action": action, "level": level, "upper": 1.1},
    )
    assert out.loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("level", "expected"),
    [("product", [0.886920, 1.185305, 0.244143]), ("geometric", [0.970446, 1.058303, 0.625002])],
)
def test_mismatch_weights(level, expected):
    old, mu = (torch.tensor(x, dtype=torch.float64) for x in (OLD, MU))
    config = WeightConfig(action="truncate", level=level, upper=50)
    weight = mismatch_correction(
        logp_old=old, logp_rollout=mu, mask=MASK, weight=config, reject=()
    ).weight[:, 0]
    assert_close(weight.float(), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("advantage", "dual_clip", "expected"),
    [
        (1.0, 10.0, [-0.3, -0.5, -1, -2, -3.5, -4, -4, -4]),
        (-1.0, 10.0, [0.5, 0.5, 1, 2, 3.5, 4, 6, 10]),
        (-1.0, 3.0, [0.5, 0.5, 1, 2, 3, 3, 3, 3]),
    ],
)
def test_surrogate_table_and_its_dead_zones(advantage, dual_clip, expected):
    ratio = torch.tensor([[0.3, 0.5, 1, 2, 3.5, 4, 6, 12]], dtype=torch.float64)
    config = ObjectiveConfig(surrogate={**ALP_CLIP, "dual_clip": dual_clip}).surrogate
    terms = surrogate(ratio, ratio.log(), torch.full_like(ratio, advantage), config)
    assert_close(terms.loss, torch.tensor([expected], dtype=torch.float64), atol=1e-9, rtol=0)
    alive = (ratio <= 4) if advantage > 0 else (ratio >= 0.5) & (ratio <= dual_clip)
    inside = ~torch.isclose(
        ratio, torch.tensor([0.5, 4.0, dual_clip], dtype=torch.float64)[:, None, None]
    ).any(0)
    assert torch.equal((terms.slope != 0)[inside], alive[inside])
    assert torch.equal(terms.alive[inside].bool(), alive[inside])
    # Inside its bounds the slope is that of -A x, by x = exp(logp).
    assert_close(terms.slope[inside & alive], -advantage * ratio[inside & alive])


def test_bypass_ratio_is_staleness_times_mismatch():
    lp, old, mu = (torch.tensor(x, dtype=torch.float64) for x in (LP, OLD, MU))
    rho = run(**bypass("token"))[0].ratio
    assert_close(rho[MASK], ((lp - old).exp() * (old - mu).exp())[MASK], atol=1e-15, rtol=1e-15)


def test_a_perturbed_numerator_changes_the_ratio_alone():
    """w and its weight stay as they are, r takes the perturbation as a factor."""
    lp, noise = torch.tensor(LP, dtype=torch.float64), torch.tensor([[0.3], [-0.2], [0.05]])
    weight = {"action": "truncate", "level": "product", "upper": 1.1}
    plain, _ = run(lp, weight=weight)
    noisy, _ = run(lp + noise, weight=weight)
    assert torch.equal(noisy.weight, plain.weight)
    assert_close(noisy.ratio, plain.ratio * torch.where(MASK, noise.double().exp(), 1.0))


def test_group_advantage_of_the_spec():
    config = ObjectiveConfig().advantage
    rewards = torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0.5])
    group = torch.tensor([0] * 8 + [1] * 3 + [2])
    advantage = group_advantage(rewards, group, config)
    one = 1.207612, -0.724567
    assert_close(
        advantage[:8], torch.tensor([one[int(1 - r)] for r in rewards[:8]]), atol=1e-6, rtol=0
    )
    assert advantage[8:11].tolist() == [0, 0, 0]
    assert advantage[11].item() == pytest.approx(0.5 / (1 + 1e-6), abs=1e-7)
    pair = group_advantage(torch.tensor([1.0, 0.0]), torch.tensor([3, 3]), config)
    assert_close(pair, torch.tensor([0.5, -0.5]) / 0.5**0.5, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "axes", [{}, {"normalize_std": False}, {"kind": "dr_grpo"}, {"kind": "rloo"}]
)
@pytest.mark.parametrize("reward", [0.7, 5.3, -0.1, 1e-3, 1e6, 0.0])
@pytest.mark.parametrize("size", [2, 3, 7, 8, 16])
def test_equal_rewards_are_no_signal_whatever_they_are(size, reward, axes):
    """Exactly 0, and the other groups of the batch get what they get alone (float32, 1e-6)."""
    config = ObjectiveConfig(advantage=axes).advantage
    rewards = torch.tensor([reward] * size + [0.25, 1.0, 0.3])
    group = torch.tensor([7] * size + [2] * 3)
    advantage = group_advantage(rewards, group, config)
    assert (advantage[:size] == 0).all()
    alone = group_advantage(rewards[size:].double(), group[size:], config)
    assert_close(advantage[size:].double(), alone, atol=1e-6, rtol=0)
    assert (alone != 0).all()


def test_rloo_is_dr_grpo_scaled_by_n_over_n_minus_1():
    rewards, group = torch.tensor([1.0, 0, 0, 1, 0, 0.25]), torch.tensor([0, 0, 0, 0, 1, 1])
    dr = group_advantage(rewards, group, ObjectiveConfig(advantage={"kind": "dr_grpo"}).advantage)
    rloo = group_advantage(rewards, group, ObjectiveConfig(advantage={"kind": "rloo"}).advantage)
    assert_close(rloo, dr * torch.tensor([4 / 3] * 4 + [2.0] * 2))
    assert rloo[0].item() == pytest.approx(1 - 1 / 3)  # mean of the other three
    alone = ObjectiveConfig(advantage={"kind": "rloo"}).advantage
    assert group_advantage(torch.tensor([0.25]), torch.tensor([0]), alone).item() == 0.25


@pytest.mark.parametrize("level", ["turn", "cumulative_turn"])
def test_turn_levels(level):
    log_ratio = torch.tensor([[0.1, 0.2, 0.4, 0.8, 1.6]])
    mask = torch.tensor([[1, 1, 0, 1, 1]], dtype=torch.bool)
    turn = torch.tensor([[0, 0, 1, 1, 2]])
    got = reduce_to_level(log_ratio, mask, level, turn)
    expected = {"turn": [0.3, 0.3, 0, 0.8, 1.6], "cumulative_turn": [0.3, 0.3, 0, 1.1, 2.7]}[level]
    assert_close(got, torch.tensor([expected]))
    one_turn = reduce_to_level(log_ratio, mask, level, None)
    assert_close(one_turn, reduce_to_level(log_ratio, mask, "product"))


# Score centering needs candidates besides: test_centering.py.
ALL_PRESETS = sorted(name for name in PRESETS if not name.startswith("score-centering"))


def axes_of(name):
    return RunConfig(**PRESETS[name].settings).objective.model_dump(exclude={"advantage"})


@pytest.mark.parametrize("name", ALL_PRESETS)
def test_masked_positions_never_matter(name):
    """Garbage (inf, NaN, 1e4) at masked positions changes neither loss, ratios nor gradients."""
    axes = axes_of(name)
    clean, clean_grad = run(**axes)
    poison = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e4], dtype=torch.float64)
    for value in poison:
        spoiled = [
            torch.where(MASK, torch.tensor(x, dtype=torch.float64), value) for x in (LP, MU, OLD)
        ]
        advantage = torch.where(MASK, ADVANTAGE[:, None], value)
        out, grad = run(spoiled[0], mu=spoiled[1], old=spoiled[2], **axes)
        assert out.loss == clean.loss
        assert torch.equal(out.ratio, clean.ratio)
        assert torch.equal(grad, clean_grad)
        out, grad = run(spoiled[0], mu=spoiled[1], old=spoiled[2], advantage=advantage, **axes)
        assert out.loss.item() == pytest.approx(clean.loss.item(), abs=1e-12)
        assert_close(grad, clean_grad, atol=1e-12, rtol=0)
        for key, count in clean.receipt.items():
            assert out.receipt[key].item() == pytest.approx(count.item(), abs=1e-9), key


@pytest.mark.parametrize("name", ALL_PRESETS)
@pytest.mark.parametrize(
    "aggregate",
    [
        "token_mean",
        "seq_mean_token_sum",
        "seq_mean_token_mean",
        "fixed_length_sum",
        "fixed_length_mean",
    ],
)
def test_micro_batches_equal_one_batch(name, aggregate):
    axes = axes_of(name) | {"aggregate": aggregate}
    whole, grad = run(**axes)
    tensors = [torch.tensor(x, dtype=torch.float64) for x in (LP, MU, OLD)]
    config = ObjectiveConfig(**axes)
    sums = [
        normalizer_sums(
            logp=tensors[0][row : row + 1],
            logp_old=tensors[2][row : row + 1],
            logp_rollout=tensors[1][row : row + 1],
            mask=MASK[row : row + 1],
            advantage=ADVANTAGE[row : row + 1],
            config=config,
        )
        for row in range(3)
    ]
    normalizer = whole_batch(sums, config, fixed_length=4)
    loss, parts, receipts = 0.0, [], []
    for row in range(3):
        out, part = run(
            tensors[0][row : row + 1],
            mu=tensors[1][row : row + 1],
            old=tensors[2][row : row + 1],
            mask=MASK[row : row + 1],
            advantage=ADVANTAGE[row : row + 1],
            normalizer=normalizer,
            **axes,
        )
        loss += out.loss.item()
        parts.append(part)
        receipts.append(out.receipt)
    assert loss == pytest.approx(whole.loss.item(), abs=1e-12)
    assert_close(torch.cat(parts), grad, atol=1e-12, rtol=0)
    for key, value in whole.receipt.items():
        assert sum(r[key] for r in receipts).item() == pytest.approx(value.item(), abs=1e-9)


def test_equal_policies_make_every_method_one_method():
    """mu = pi_old = pi_theta: all corrections give one loss and one gradient (per aggregation)."""
    lp = torch.tensor(LP, dtype=torch.float64)
    reference, reference_grad = run(lp, mu=lp, old=lp)
    for name in ALL_PRESETS:
        axes = axes_of(name) | {"aggregate": "token_mean"}
        out, grad = run(lp, mu=lp, old=lp, **axes)
        if axes["surrogate"]["kind"] == "ppo":  # the others' value is a log-prob's, not a ratio's
            assert out.loss.item() == pytest.approx(reference.loss.item(), abs=1e-12), name
        assert_close(grad, reference_grad, atol=1e-12, rtol=0, msg=name)


def test_an_infinite_cap_is_plain_importance_sampling():
    lp = torch.tensor(LP, dtype=torch.float64)
    kwargs = {"surrogate": {"kind": "reinforce"}, "ratio": {"denominator": "current"}}
    tis, tis_grad = run(lp, **kwargs, weight={"action": "truncate", "upper": 1e9})
    mis, mis_grad = run(lp, **kwargs, weight={"action": "mask", "upper": 1e9})
    weight = (torch.tensor(OLD) - torch.tensor(MU)).double().exp()
    by_hand = -(weight * ADVANTAGE[:, None] * MASK) / MASK.sum()
    assert_close(tis_grad, by_hand, atol=1e-7, rtol=0)
    assert_close(mis_grad, tis_grad, atol=0, rtol=0)
    assert tis.loss == mis.loss


def test_everything_masked_is_zero_loss_and_zero_gradient():
    out, grad = run(weight={"action": "mask", "level": "product", "lower": 10, "upper": 20})
    assert out.loss.item() == 0
    assert grad.abs().max().item() == 0
    assert out.receipt["masked"].item() == out.receipt["tokens"].item() == 10
    assert out.receipt["surviving"].item() == 0
    for aggregate in get_args(Aggregate):
        nothing, grad = run(mask=torch.zeros_like(MASK), aggregate=aggregate)
        assert nothing.loss.item() == 0
        assert grad.abs().max().item() == 0


@pytest.mark.parametrize("size", [50.0, 1e4])
@pytest.mark.parametrize("name", ALL_PRESETS)
def test_huge_log_ratios_stay_finite_and_are_counted(name, size):
    lp = torch.tensor(LP, dtype=torch.float32)
    mu, old = lp.clone(), lp.clone()
    mu[0, 0] -= size
    old[0, 0] -= size
    mu[1, 1] += size
    old[1, 1] += size
    axes = axes_of(name)
    out, grad = run(lp, mu=mu, old=old, **axes)
    assert torch.isfinite(out.loss)
    assert torch.isfinite(grad).all()
    # Below that, the geometric mean over 4 tokens never reaches the clamp; a ratio of 1 never does.
    if size / 4 > 20 and axes["ratio"]["denominator"] != "current":
        assert out.receipt["saturated"] >= 2


def test_clamped_entries_are_counted_once_per_token():
    lp = torch.tensor(LP, dtype=torch.float64)
    mu = lp.clone()
    mu[0, 0] -= 50
    token, _ = run(lp, mu=mu, **bypass("token"))
    product, _ = run(lp, mu=mu, **bypass("product"))
    assert token.receipt["saturated"] == 1
    assert product.receipt["saturated"] == 4
    assert token.ratio[0, 0].item() == pytest.approx(torch.tensor(20.0).exp().item(), rel=1e-6)


def test_a_one_sided_clamp_belongs_to_the_released_scripts_alone():
    """The reference baselines clamp at +10 and not from below."""
    one_sided = {name for name in ALL_PRESETS if axes_of(name)["log_ratio_clamp"] != (-20.0, 20.0)}
    assert one_sided
    assert all(name.startswith("paper/") for name in one_sided)
    lp = torch.tensor(LP, dtype=torch.float64)
    above, below = lp.clone(), lp.clone()
    above[0, 0], below[0, 0] = lp[0, 0] - 50, lp[0, 0] + 50
    for mu, expected in ((above, 10.0), (below, -50.0)):
        out, _ = run(lp, mu=mu, **bypass("token"), log_ratio_clamp=(-60, 10))
        assert out.ratio[0, 0].log().item() == pytest.approx(expected)


def test_logp_old_is_demanded_only_where_it_is_used():
    lp = torch.tensor(LP, dtype=torch.float64)
    common = {"logp": lp, "logp_rollout": lp, "mask": MASK, "advantage": ADVANTAGE}
    policy_loss(logp_old=None, config=ObjectiveConfig(**bypass("token")), **common)
    with pytest.raises(ValueError, match="pi_old"):
        policy_loss(logp_old=None, config=ObjectiveConfig(), **common)


finite = st.floats(-6, 0.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(finite, finite, st.booleans()), min_size=2, max_size=12),
    st.sampled_from(["truncate", "clip", "mask"]),
    st.sampled_from(["token", "cumulative", "product", "geometric"]),
)
def test_weights_stay_in_their_bounds(rows, action, level):
    old, mu, mask = (torch.tensor([list(column)]) for column in zip(*rows, strict=True))
    lower = 0.0 if action == "truncate" else 0.5
    config = WeightConfig(action=action, level=level, lower=lower, upper=2.0)
    got = mismatch_correction(logp_old=old, logp_rollout=mu, mask=mask, weight=config, reject=())
    valid = got.weight[mask]
    assert (valid <= 2.0).all()
    assert (valid >= 0).all()
    if action == "clip":
        assert (valid >= 0.5).all()
    if action == "mask":
        raw = reduce_to_level(old - mu, mask, level).exp()[mask]
        inside = (raw >= 0.5) & (raw <= 2.0)
        assert torch.equal(valid[inside], raw[inside])
        assert (valid[~inside] == 0).all()
    assert (got.weight[~mask] == 1).all()
    assert not got.weight.requires_grad
