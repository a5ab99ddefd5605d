"""Score centering against its fixture, a double loop in float64, and the exact gradient by enumeration."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from alpkit.config import PRESETS, ObjectiveConfig
from alpkit.objective import TopTokens, policy_loss
from alpkit.objective.centering import _weighted

Z = torch.tensor([1.2, 0.3, -0.5, -1.0, -1.6], dtype=torch.float64)
Q = torch.tensor([0.45, 0.25, 0.15, 0.10, 0.05], dtype=torch.float64)
NONE = {}
TRUNCATE = {"action": "truncate", "of": "bypass", "upper": 1.1}
MASK = {"action": "mask", "of": "bypass", "lower": 0.5, "upper": 2.0}
WEIGHTS = {"none": NONE, "truncate": TRUNCATE, "mask": MASK}


def objective(weight=NONE, *, tail="floored", **axes):
    return ObjectiveConfig.model_validate(
        {
            "ratio": {"denominator": "current"},
            "surrogate": {"kind": "reinforce"},
            "weight": weight,
            "centering": {"kind": "score", "tail": tail},
            **axes,
        }
    )


def candidates(logits, log_q, ids, *, tail="floored"):
    """The head at every position, from the trainer's logits and the sampler's log-probs [batch, tok, vocab]."""
    normalizer = logits.logsumexp(dim=-1, keepdim=True)
    rest = logits.scatter(-1, ids, -torch.inf).logsumexp(dim=-1) - normalizer[..., 0]
    return TopTokens(
        ids.int(),
        log_q.gather(-1, ids),
        (logits - normalizer).gather(-1, ids),
        rest if tail == "softmax" else None,
    )


def centred(logits, log_q, token, ids, advantage, config, mask=None, **inputs):
    """Loss and its gradient by the trainer's logits."""
    logits = logits.clone().requires_grad_(True)
    logp = logits.log_softmax(-1).gather(-1, token[..., None])[..., 0]
    out = policy_loss(
        logp=logp,
        logp_old=None,
        logp_rollout=log_q.gather(-1, token[..., None])[..., 0],
        mask=torch.ones_like(logp) if mask is None else mask,
        advantage=advantage,
        config=config,
        top=candidates(logits, log_q, ids, tail=config.centering.tail),
        **inputs,
    )
    out.loss.backward()
    return out, logits.grad


def one(token, ids, config, advantage=1.0, logits=Z, q=Q):
    """The fixture's one position."""
    out, grad = centred(
        logits[None, None],
        q.log()[None, None],
        torch.tensor([[token]]),
        torch.tensor([[ids]]),
        torch.tensor([advantage], dtype=torch.float64),
        config,
    )
    return out.loss.item(), grad[0, 0]


@pytest.mark.parametrize(
    ("weight", "token", "loss", "grad"),
    [
        (NONE, 0, 0.928458, [-0.55, 0.25, 0.154687, 0.093822, 0.051491]),
        (NONE, 3, 3.128458, [0.45, 0.25, 0.154687, -0.906178, 0.051491]),
        (TRUNCATE, 0, 0.663635, [-0.506808, 0.270814, 0.121684, 0.073805, 0.040505]),
        (TRUNCATE, 3, 1.781642, [0.325854, 0.162122, 0.072846, -0.585070, 0.024248]),
        ({**TRUNCATE, "upper": 2.0}, 0, 0.714050, [-0.545310, 0.291387, 0.130928, 0.079412, 0.043582]),
        (MASK, 0, 0.714050, [-0.545310, 0.291387, 0.130928, 0.079412, 0.043582]),
    ],
)  # fmt: skip
def test_the_fixture_of_one_position(weight, token, loss, grad):
    found, by_logits = one(token, [0, 1], objective(weight))
    assert found == pytest.approx(loss, abs=1e-6)
    assert_close(by_logits, torch.tensor(grad, dtype=torch.float64), atol=1e-6, rtol=0)
    # The other tail differs in value alone: there the rest is one candidate more.
    value, again = one(token, [0, 1], objective(weight, tail="softmax"))
    assert_close(again, by_logits, atol=1e-12, rtol=0)
    p, name = (
        Z.softmax(-1).tolist(),
        next(k for k, w in WEIGHTS.items() if w.get("action") == weight.get("action")),
    )
    f = [rule(name, p[v] / Q[v].item(), weight) for v in (0, 1, token)]
    rest_p, rest_q = 1 - p[0] - p[1], 0.3
    mean = sum(Q[v].item() * f[v] * math.log(p[v]) for v in (0, 1))
    mean += rest_q * rule(name, rest_p / rest_q, weight) * math.log(rest_p)
    assert value == pytest.approx(-(f[2] * math.log(p[token]) - mean), abs=1e-12)


@pytest.mark.parametrize(
    ("weight", "ids", "advantages", "grad"),
    [
        (NONE, [0, 1, 2, 3, 4], [1, 0, 0.5, -0.5, 2], [-0.19125, 0.14375, 0.01125, 0.1075, -0.07125]),
        (TRUNCATE, [0, 1, 2, 3, 4], [1, 0, 0.5, -0.5, 2], [-0.181186, 0.144630, 0.013113, 0.070879, -0.047436]),
        (NONE, [0, 1], [1, 1, 1, 1, 1], [0, 0, 0.004687, -0.006178, 0.001491]),
    ],
)  # fmt: skip
def test_the_fixture_of_the_mean_over_the_sampler(weight, ids, advantages, grad):
    found = sum(
        q * one(token, ids, objective(weight), advantage)[1]
        for token, (q, advantage) in enumerate(zip(Q, advantages, strict=True))
    )
    assert_close(found, torch.tensor(grad, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("tail", ["floored", "softmax"])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("seed", range(5))
def test_a_whole_vocabulary_gives_the_exact_centred_gradient(weight, tail, seed):
    # Sum over the sampled token of q (grad of the loss) = -E_q[A (f s - E_q[f s])], s = grad log p.
    generator = torch.Generator().manual_seed(seed)
    vocab = 6
    z, q_logits = torch.randn(2, vocab, dtype=torch.float64, generator=generator)
    q, p = q_logits.softmax(-1), z.softmax(-1)
    advantage = torch.randn(vocab, dtype=torch.float64, generator=generator).tolist()
    config = objective(WEIGHTS[weight], tail=tail)
    found = sum(
        q[a] * one(a, list(range(vocab)), config, advantage[a], z, q)[1] for a in range(vocab)
    )
    f = [rule(weight, (p[v] / q[v]).item()) for v in range(vocab)]
    scores = [torch.eye(vocab, dtype=torch.float64)[v] - p for v in range(vocab)]
    mean = sum(q[v] * f[v] * scores[v] for v in range(vocab))
    exact = -sum(q[a] * advantage[a] * (f[a] * scores[a] - mean) for a in range(vocab))
    assert_close(found, exact, atol=1e-12, rtol=0)


def rule(name, x, settings=None):
    """f, once more."""
    settings = settings or WEIGHTS[name]
    if name == "none":
        return 1.0
    if name == "truncate":
        return min(x, settings["upper"])
    return x if settings["lower"] <= x <= settings["upper"] else 0.0


def by_two_loops(logits, log_q, token, ids, advantage, mask, weight):
    """The page's (1) and (2), position by position and candidate by candidate, as a token mean."""
    rows, length, vocab = logits.shape
    grad, loss = torch.zeros_like(logits), 0.0
    count = float(mask.sum())
    for b in range(rows):
        for t in range(length):
            if not mask[b, t]:
                continue
            p = logits[b, t].softmax(-1).tolist()
            q = log_q[b, t].exp().tolist()
            a, head, A = int(token[b, t]), ids[b, t].tolist(), float(advantage[b])
            excess = max(1 - sum(q[v] for v in head), 1e-6) / max(1 - sum(p[v] for v in head), 1e-6)
            alpha = excess * rule(weight, 1 / excess)
            f = rule(weight, p[a] / q[a])
            mean = 0.0
            w = [alpha * p[v] for v in range(vocab)]
            for v in head:
                w[v] = q[v] * rule(weight, p[v] / q[v])
                mean += (w[v] - alpha * p[v]) * math.log(p[v])
            loss += -A * (f * math.log(p[a]) - mean) / count
            for v in range(vocab):
                slope = (w[v] - p[v] * sum(w)) - f * ((v == a) - p[v])
                grad[b, t, v] = A * slope / count
    return loss, grad


@given(seed=st.integers(0, 10_000), k=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_two_loops_give_the_same_loss_and_gradient(weight, seed, k):
    # k = 6 of 8 tokens: both tails are above their floor, so that values agree as well.
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, 8)
    logits = torch.randn(shape, dtype=torch.float64, generator=generator)
    log_q = (
        logits + 0.5 * torch.randn(shape, dtype=torch.float64, generator=generator)
    ).log_softmax(-1)
    ids = log_q.topk(k, dim=-1).indices
    token = torch.randint(0, 8, shape[:2], generator=generator)
    advantage = torch.randn(2, dtype=torch.float64, generator=generator)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    out, grad = centred(logits, log_q, token, ids, advantage, objective(WEIGHTS[weight]), mask)
    loss, by_loops = by_two_loops(logits, log_q, token, ids, advantage, mask, weight)
    assert_close(grad, by_loops, atol=1e-10, rtol=0)
    assert out.loss.item() == pytest.approx(loss, abs=1e-10)


def batch(seed=0, k=3):
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 4, 7)
    logits = torch.randn(shape, dtype=torch.float64, generator=generator)
    log_q = (
        logits + 0.3 * torch.randn(shape, dtype=torch.float64, generator=generator)
    ).log_softmax(-1)
    return {
        "logits": logits,
        "log_q": log_q,
        "token": torch.randint(0, 7, shape[:2], generator=generator),
        "ids": log_q.topk(k, dim=-1).indices,
        "advantage": torch.randn(3, dtype=torch.float64, generator=generator),
    }


def test_a_peaked_position_needs_the_softmax_tail():
    # The trainer has all but 2.3e-8 of its mass on the head, the sampler 0.9: the floor hides the difference.
    z = torch.tensor([17.6, 0.0], dtype=torch.float64)
    q = torch.tensor([0.9, 0.1], dtype=torch.float64)
    floored = one(0, [0], objective(), logits=z, q=q)[1]
    softmax = one(0, [0], objective(tail="softmax"), logits=z, q=q)[1]
    assert floored[0].item() == pytest.approx(-0.0023, abs=1e-4)
    assert softmax[0].item() == pytest.approx(-0.1, abs=1e-6)
    single = one(0, [0], objective(tail="softmax"), logits=z.float(), q=q.float())[1]
    assert single[0].item() == pytest.approx(-0.1, abs=1e-5)


@pytest.mark.parametrize("tail", ["floored", "softmax"])
def test_where_nothing_is_cut_truncation_and_centering_do_nothing(tail):
    data, high = batch(), {**TRUNCATE, "upper": 1e6}
    _, centring = centred(**data, config=objective(high, tail=tail))
    logits = data["logits"].clone().requires_grad_(True)
    logp = logits.log_softmax(-1).gather(-1, data["token"][..., None])[..., 0]
    mu = data["log_q"].gather(-1, data["token"][..., None])[..., 0]
    plain = objective(high).model_copy(update={"centering": ObjectiveConfig().centering})
    policy_loss(
        logp=logp, logp_old=None, logp_rollout=mu, mask=torch.ones_like(mu),
        advantage=data["advantage"], config=plain,
    ).loss.backward()  # fmt: skip
    assert_close(centring, logits.grad, atol=1e-12, rtol=0)


def test_a_token_that_the_weight_zeroes_still_has_its_mean_score_and_a_rejected_one_has_none():
    # p/q is 1.26 for the sampled token and 0.92 to 0.63 for the others: the band takes only the former out.
    whole, narrow = [0, 1, 2, 3, 4], {**MASK, "upper": 1.2}
    _, grad = one(0, whole, objective(narrow))
    f = [rule("mask", x) * (x <= 1.2) for x in (Z.softmax(-1) / Q).tolist()]
    mean = sum(Q[v] * f[v] * (torch.eye(5)[v] - Z.softmax(-1)) for v in whole)
    assert f[0] == 0
    assert_close(grad, mean.double(), atol=1e-12, rtol=0)
    assert grad.abs().max() > 0.1
    data = batch()
    everything = [{"statistic": "k1", "of": "bypass", "reduce": "max", "upper": -50.0}]
    out, grad = centred(**data, config=objective(reject=everything))
    assert not out.keep.any()
    assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("tail", ["floored", "softmax"])
def test_masked_positions_may_hold_anything(tail):
    data = batch()
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1]])
    config = objective(TRUNCATE, tail=tail)
    logits = data["logits"].clone().requires_grad_(True)
    top = candidates(logits, data["log_q"], data["ids"], tail=tail)
    logp = logits.log_softmax(-1).gather(-1, data["token"][..., None])[..., 0]
    inputs = {
        "logp": logp.detach(), "logp_old": None, "mask": mask, "advantage": data["advantage"],
        "logp_rollout": data["log_q"].gather(-1, data["token"][..., None])[..., 0],
    }  # fmt: skip
    expected = policy_loss(**inputs, top=top, config=config)
    for garbage in (torch.nan, torch.inf, -torch.inf):
        hole = mask[..., None] == 0
        filled = TopTokens(
            top.ids,
            top.logp_rollout.masked_fill(hole, garbage),
            top.logp.detach().masked_fill(hole, garbage).requires_grad_(True),
            None if top.logp_rest is None
            else top.logp_rest.detach().masked_fill(mask == 0, garbage).requires_grad_(True),
        )  # fmt: skip
        out = policy_loss(**inputs, top=filled, config=config)
        assert_close(out.loss, expected.loss, atol=0, rtol=0)
        out.loss.backward()
        assert (filled.logp.grad[hole.expand_as(filled.logp)] == 0).all()
        if filled.logp_rest is not None:
            assert (filled.logp_rest.grad[mask == 0] == 0).all()
        assert {key: value.item() for key, value in out.receipt.items()} == {
            key: value.item() for key, value in expected.receipt.items()
        }


def test_weights_on_a_bound_are_inside_it():
    q, p = torch.tensor([0.5, 0.25, 0.125, 0.0625]), torch.full((4,), 0.25)
    config = objective(MASK).weight  # [0.5, 2]
    assert _weighted(q, p, config).tolist() == [0.25, 0.25, 0.25, 0]
    assert _weighted(2 * q, p / 2, config).tolist() == [0, 0, 0.125, 0.125]


def test_sampler_masses_that_add_up_to_more_than_one_leave_no_rest():
    # Log-probs of float32 may: sum exp <= 1 + 1e-4 is accepted.
    too_much = torch.tensor([0.7, 0.30005, 1e-9], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    out, _ = centred(
        logits[None, None], too_much.log()[None, None], torch.tensor([[0]]), torch.tensor([[[0, 1]]]),
        torch.ones(1, dtype=torch.float64), objective(tail="softmax"),
    )  # fmt: skip
    assert out.receipt["centering"].item() == pytest.approx(1.00005, abs=1e-9)


def test_both_tails_are_floored_before_the_quotient():
    q = torch.tensor([0.6, 0.4 - 1e-9, 1e-9], dtype=torch.float64)
    logits = torch.tensor([1.0, 0.5, -0.5], dtype=torch.float64)
    tail = logits.softmax(-1)[2].item()
    for kind in ("floored", "softmax"):
        for q_of, z, expected in (
            (q, logits, 1e-6 / tail),
            (logits.softmax(-1), q.log(), tail / 1e-6),
        ):
            out, _ = centred(
                z[None, None], q_of.log()[None, None], torch.tensor([[0]]), torch.tensor([[[0, 1]]]),
                torch.ones(1, dtype=torch.float64), objective(tail=kind),
            )  # fmt: skip
            assert out.receipt["tail_excess"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("tail", ["floored", "softmax"])
def test_masked_positions_are_in_no_sum_of_the_receipt(tail):
    data, config = batch(), objective(TRUNCATE, tail=tail)
    mask = torch.tensor([[1, 1, 0, 0]] * 3)
    whole, _ = centred(**data, config=config, mask=mask)
    shorter = {k: v if k == "advantage" else v[:, :2] for k, v in data.items()}
    cut, _ = centred(**shorter, config=config)
    assert {k: v.item() for k, v in whole.receipt.items()} == pytest.approx(
        {k: v.item() for k, v in cut.receipt.items()}, abs=1e-12
    )


@pytest.mark.parametrize("tail", ["floored", "softmax"])
def test_nothing_but_the_loss_has_a_gradient_whatever_is_passed(tail):
    data = batch()
    log_q = data["log_q"].clone().requires_grad_(True)
    logits = data["logits"].clone().requires_grad_(True)
    # The trainer always passes the rest; a floored tail has no use for it.
    top = candidates(logits, log_q, data["ids"], tail="softmax")
    logp = logits.log_softmax(-1).gather(-1, data["token"][..., None])[..., 0]
    mu = log_q.gather(-1, data["token"][..., None])[..., 0]
    out = policy_loss(
        logp=logp, logp_old=None, logp_rollout=mu, mask=torch.ones_like(mu),
        advantage=data["advantage"], config=objective(TRUNCATE, tail=tail), top=top,
    )  # fmt: skip
    assert not any(value.requires_grad for value in out.receipt.values())
    out.loss.backward()
    assert log_q.grad is None
    _, expected = centred(**data, config=objective(TRUNCATE, tail=tail))
    assert_close(logits.grad, expected, atol=1e-14, rtol=0)


def test_the_least_likely_candidate_is_in_the_head():
    for token, outside in ((0, 0), (1, 0), (2, 1)):
        out, _ = centred(
            Z[None, None], Q.log()[None, None], torch.tensor([[token]]), torch.tensor([[[0, 1]]]),
            torch.ones(1, dtype=torch.float64), objective(),
        )  # fmt: skip
        assert out.receipt["outside_head"] == outside


@pytest.mark.parametrize("of", ["logp_rollout", "logp"])
@pytest.mark.parametrize("hole", [-torch.inf, torch.inf, torch.nan])
def test_a_candidate_without_a_finite_log_prob_is_no_candidate(of, hole):
    data, config = batch(k=3), objective(TRUNCATE)
    logits = data["logits"]
    less = candidates(logits, data["log_q"], data["ids"][..., :2])
    full = candidates(logits, data["log_q"], data["ids"])
    holes = getattr(full, of).clone()
    holes[..., 2] = hole
    logp = logits.log_softmax(-1).gather(-1, data["token"][..., None])[..., 0]
    mu = data["log_q"].gather(-1, data["token"][..., None])[..., 0]
    inputs = {"logp": logp, "logp_old": None, "logp_rollout": mu, "mask": torch.ones_like(mu),
              "advantage": data["advantage"], "config": config}  # fmt: skip
    found = policy_loss(**inputs, top=full._replace(**{of: holes}))
    expected = policy_loss(**inputs, top=less)
    assert_close(found.loss, expected.loss)
    assert found.receipt["outside_head"] == expected.receipt["outside_head"]


def test_the_receipt_sums_masses_coefficients_and_tokens_outside_the_head():
    config = objective()
    for token, outside in ((0, 0.0), (3, 1.0)):
        out, _ = centred(
            Z[None, None], Q.log()[None, None], torch.tensor([[token]]), torch.tensor([[[0, 1]]]),
            torch.ones(1, dtype=torch.float64), config,
        )  # fmt: skip
        found = {key: value.item() for key, value in out.receipt.items()}
        expected = {
            "head_mass": 0.798794, "head_mass_rollout": 0.70, "tail_excess": 1.491010,
            "centering": 0.396748 + 0.094262, "outside_head": outside,
        }  # fmt: skip
        assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    out, _ = centred(
        Z[None, None], Q.log()[None, None], torch.tensor([[0]]), torch.tensor([[[0, 1]]]),
        torch.ones(1, dtype=torch.float64), objective(tail="softmax"),
    )  # fmt: skip
    assert out.receipt["centering"].item() == pytest.approx(0.45 + 0.25 + 0.30, abs=1e-6)
    assert out.receipt["tail_excess"].item() == pytest.approx(1.491010, abs=1e-6)


def test_normalizers_and_micro_batches_scale_it_as_they_scale_the_loss():
    data, config = batch(), objective(TRUNCATE, aggregate="seq_mean_token_mean")
    _, whole = centred(**data, config=config)
    parts = [
        centred(
            **{key: value[row : row + 1] for key, value in data.items()},
            config=config,
            normalizer=3.0,
        )[1]
        for row in range(3)
    ]
    assert_close(torch.cat(parts), whole, atol=1e-14, rtol=0)


def test_what_it_needs_and_lacks_is_named():
    inputs = {"logp": torch.zeros(1, 1), "logp_old": None, "logp_rollout": torch.zeros(1, 1),
              "mask": torch.ones(1, 1), "advantage": torch.ones(1)}  # fmt: skip
    with pytest.raises(ValueError, match="pass top, the sampler's likeliest"):
        policy_loss(**inputs, config=objective())
    zeros = torch.zeros(1, 1, 1)
    with pytest.raises(ValueError, match=r"pass top\.logp_rest"):
        policy_loss(
            **inputs, config=objective(tail="softmax"), top=TopTokens(zeros.int(), zeros, zeros)
        )


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"ratio": {"denominator": "old"}}, "set ratio.denominator: current"),
        ({"weight": {**TRUNCATE, "of": "mismatch"}}, "set weight.of: bypass"),
        ({"weight": {**TRUNCATE, "action": "clip"}}, "set truncate, mask or none"),
        ({"weight": {**TRUNCATE, "level": "product"}}, "set level: token"),
        ({"weight": {**TRUNCATE, "normalize": "batch"}}, "set normalize: none"),
        ({"surrogate": {"kind": "ppo"}}, "a clip can never act"),
        ({"centering": {"tail": "softmax"}}, "tail does nothing without kind: score"),
    ],
)
def test_settings_that_have_no_meaning_per_candidate_are_refused(axes, message):
    settings = PRESETS["score-centering"].settings["objective"]
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig.model_validate({**settings, **axes})
