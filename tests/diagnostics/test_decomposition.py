"""Decomposition: factors add to the total, variances and covariances too, and a planted culprit."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpkit.diagnostics import decompose, reduce_to_level
from alpkit.errors import AlpkitError


def policies(seed, n=400, perturbed=True):
    rng = np.random.default_rng(seed)
    rollout = -rng.exponential(1, n)
    old = rollout + rng.normal(0, 0.1, n)
    train = old + rng.standard_t(3, n) * 0.05 - 0.3 * (old - rollout)
    found = {"logp_rollout": rollout, "logp_old": old, "logp_train": train}
    return found | ({"logp_perturbed": train + rng.normal(0, 0.2, n)} if perturbed else {})


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["token", "geometric", "product"]))
def test_variances_covariances_and_shares_add_up(seed, perturbed, level):
    data, sequence = policies(seed, perturbed=perturbed), np.arange(400) // 7
    got = decompose(**data, level=level, sequence=sequence)
    names = ["mismatch", "staleness", *(["perturbation"] if perturbed else [])]
    assert list(got.variance) == [*names, "total"]
    covariances = sum(
        value * math.sqrt(got.variance[a] * got.variance[b])
        for (a, b), value in ((pair.split(":"), v) for pair, v in got.correlation.items())
    )
    parts = sum(got.variance[name] for name in names)
    assert parts + 2 * covariances == pytest.approx(got.variance["total"], rel=1e-9)
    assert sum(got.tail_share.values()) == pytest.approx(1.0, rel=1e-9)
    last = data.get("logp_perturbed", data["logp_train"])
    total = reduce_to_level(last - data["logp_rollout"], sequence, level)
    assert got.variance["total"] == pytest.approx(total.var(), rel=1e-9)
    assert (got.n, got.n_tail) == (total.size, math.ceil(total.size / 100))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_order_of_tokens_does_not_matter_even_where_totals_tie(seed):
    data = {name: np.round(values, 1) for name, values in policies(seed).items()}
    order = np.random.default_rng(seed).permutation(400)
    before, after = decompose(**data), decompose(**{k: v[order] for k, v in data.items()})
    assert after.n_tail == before.n_tail >= 4
    for one, other in zip(before[:3], after[:3]):
        assert other == pytest.approx(one, rel=1e-9, abs=1e-12)


def test_a_planted_culprit_carries_the_tail():
    rng = np.random.default_rng(0)
    zero = np.zeros(1_000)
    mismatch, staleness = rng.normal(0, 1, 1_000), rng.normal(0, 0.01, 1_000)
    staleness[:10] = -50.0
    got = decompose(logp_rollout=zero, logp_old=mismatch, logp_train=mismatch + staleness)
    assert got.n_tail == 10
    assert got.tail_share["staleness"] == pytest.approx(1.0, abs=0.03)
    assert abs(got.correlation["mismatch:staleness"]) < 0.1


def test_a_factor_that_pulls_back_has_a_negative_share():
    old = np.r_[np.zeros(99), -3.0]
    got = decompose(logp_rollout=np.zeros(100), logp_old=old, logp_train=old / 3)
    assert got.tail_share == pytest.approx({"mismatch": 3.0, "staleness": -2.0})
    assert got.correlation["mismatch:staleness"] == pytest.approx(-1.0)


def test_what_is_not_defined_is_said():
    zero = np.zeros(50)
    flat = decompose(logp_rollout=zero, logp_old=zero, logp_train=zero, logp_perturbed=zero)
    assert flat.status == "flat"
    assert set(flat.variance.values()) == {0.0}
    assert flat.correlation == {}
    assert all(math.isnan(share) for share in flat.tail_share.values())
    noise = np.random.default_rng(0).integers(-9, 9, 50) / 8  # so that adding 1/4 rounds nothing
    half = decompose(logp_rollout=zero, logp_old=noise, logp_train=noise + 0.25)
    assert half.correlation == {}  # a constant factor moves with nothing
    assert half.status == "ok"
    empty = decompose(logp_rollout=zero[:0], logp_old=zero[:0], logp_train=zero[:0])
    assert (empty.status, empty.n) == ("short", 0)
    for bad in (np.nan, np.inf, -np.inf):
        got = decompose(logp_rollout=zero, logp_old=noise, logp_train=np.r_[noise[1:], bad])
        assert got.status == "nonfinite"
        assert all(math.isnan(value) for value in got.variance.values())
    one = decompose(logp_rollout=zero[:1], logp_old=noise[:1], logp_train=noise[:1])
    assert one.tail_share == {"mismatch": 1.0, "staleness": 0.0}


def test_a_reduced_level_needs_sequences():
    with pytest.raises(AlpkitError, match="needs `sequence`"):
        decompose(**policies(0), level="product")
