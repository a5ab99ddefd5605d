"""Every public statistic on input that has no answer: a status that says so, never an error.

Exactly on-policy, constant, one token, NaN, +-inf and all-masked (no token left), for all of them.
"""

import math
import warnings

import numpy as np
import pytest

import alpkit.diagnostics as diagnostics
from alpkit.diagnostics import (
    RatioSketch,
    SpikeDetector,
    attribute,
    ccdf,
    compare_lognormal,
    decompose,
    divergences,
    envelope,
    ess,
    fit_gpd,
    fit_gpd_mle,
    fit_khat,
    goodness_of_fit,
    hill,
    hill_curve,
    level_shifts,
    moment_estimator,
    probability_gap,
    qq_exponential,
    reduce_to_level,
    spike_summary,
)

NOISE = np.random.default_rng(0).normal(0, 0.1, 200)
INPUTS = {
    "on-policy": np.zeros(200),
    "constant": np.full(200, 0.25),
    "one token": np.array([0.1]),
    "nan": np.r_[NOISE, math.nan],
    "inf": np.r_[NOISE, math.inf],
    "minus inf": np.r_[NOISE, -math.inf],
    "all masked": np.array([], np.float64),
    "all nan": np.full(200, math.nan),
}
NO_TAIL = {"on-policy": "flat", "constant": "flat", "one token": "short", "all masked": "short"}


def prompts(d):
    return np.arange(d.size) // 10


TAILS = {
    "hill": lambda d, side: hill(d, 20, side=side, cluster=prompts(d), n_boot=20),
    "moment_estimator": lambda d, side: moment_estimator(
        d, 20, side=side, cluster=prompts(d), n_boot=20
    ),
    "fit_gpd": lambda d, side: fit_gpd(d, side=side, cluster=prompts(d), n_boot=20),
    "fit_gpd threshold": lambda d, side: fit_gpd(d, side=side, threshold=0.0),
    "fit_gpd_mle": lambda d, side: fit_gpd_mle(d, side=side),
    "fit_khat": lambda d, side: fit_khat(d, side=side, cluster=prompts(d), n_boot=20),
    "goodness_of_fit": lambda d, side: goodness_of_fit(d, side=side, n_boot=20),
    "compare_lognormal": lambda d, side: compare_lognormal(d, side=side),
    "qq_exponential": lambda d, side: qq_exponential(d, side=side),
}


def numbers(result):
    """The numbers of a result that are estimates: all floats of a NamedTuple but what was asked for."""
    return [
        value
        for name, value in result._asdict().items()
        if isinstance(value, float) and name != "threshold"
    ]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", TAILS)
def test_no_tail_no_number(name, kind, side):
    result = TAILS[name](INPUTS[kind], side)
    expected = NO_TAIL.get(kind, "nonfinite")
    if name == "fit_gpd threshold" and (kind, side) != ("constant", "right"):
        # nothing lies above a threshold of 0, which is short; of a constant above it all is tail
        expected = {"flat": "short"}.get(expected, expected)
    if name == "fit_gpd threshold" and (kind, side) == ("constant", "right"):
        expected = "saturated"  # one value for the whole tail: no spread above the threshold
    assert result.status == expected
    if expected != "saturated":
        assert all(math.isnan(value) for value in numbers(result))
        assert numbers(result)
    assert result.n == INPUTS[kind].size


@pytest.mark.parametrize("kind", INPUTS)
def test_the_hill_curve(kind):
    d = INPUTS[kind]
    curve = hill_curve(d, np.array([1, 20, 10_000]), cluster=prompts(d), n_boot=20)
    assert curve.status == NO_TAIL.get(kind, "nonfinite")
    if curve.status == "flat":
        assert curve.estimate[:2].tolist() == [0.0, 0.0]
        assert math.isnan(curve.estimate[2])
    else:
        assert np.isnan(curve.estimate).all()
        assert np.isnan(curve.low).all()


@pytest.mark.parametrize("kind", INPUTS)
def test_curves_drop_and_count(kind):
    d = INPUTS[kind]
    bad = np.count_nonzero(~np.isfinite(d))
    expected = "ok" if d.size > bad else "nonfinite" if bad else "short"
    for result in (
        ccdf(d, cluster=prompts(d), n_boot=20),
        envelope(np.arange(d.size), d),
        envelope(d, d, edges=np.array([-1.0, 1.0])),
    ):
        assert result.status == expected
        assert result.dropped == bad
    assert reduce_to_level(d, prompts(d), "product").size == -(-d.size // 10)


@pytest.mark.parametrize("kind", INPUTS)
def test_divergences_and_gaps_count_what_spoils_them(kind):
    d = INPUTS[kind]
    bad = np.count_nonzero(~np.isfinite(d))
    for got in (
        divergences(d, prompts(d)),
        probability_gap(d - 1, np.full(d.size, -1.0), prompts(d)),
    ):
        assert (got["n"], got["nonfinite"]) == (d.size, bad)
        undefined = {name for name, value in got.items() if math.isnan(value)}
        if bad or not d.size:
            assert undefined == set(got) - {"n", "nonfinite"}
        else:  # a constant correlates with nothing
            assert undefined <= {"correlation", "log_correlation"}


@pytest.mark.parametrize("kind", INPUTS)
def test_decomposition_and_attribution(kind):
    d = INPUTS[kind]
    bad = not np.isfinite(d).all()
    got = decompose(logp_rollout=np.zeros(d.size), logp_old=d, logp_train=d)
    empty = "nonfinite" if bad else "short" if not d.size else None
    assert got.status == (empty or ("ok" if d.any() else "flat"))
    assert math.isnan(got.variance["total"]) == (empty is not None)
    assert math.isnan(got.tail_share["mismatch"]) == (got.status != "ok")
    assert not any(math.isnan(value) for value in got.correlation.values())
    share = attribute(np.abs(d), prompts(d))
    assert share.status == got.status
    assert math.isnan(share.share_tokens[1]) == (share.status != "ok")


@pytest.mark.parametrize("kind", INPUTS)
def test_spikes_and_shifts(kind):
    values = INPUTS[kind]
    usable = np.count_nonzero(np.isfinite(values) & (values > 0))
    summary, shifts = spike_summary(values), level_shifts(values)
    assert summary.status == (
        "nonfinite" if usable < values.size else "ok" if usable > 16 else "short"
    )
    assert math.isnan(summary.rate_4) == (usable <= 16)
    assert math.isnan(summary.maximum) == (usable == 0)
    long = values.size >= 32
    assert shifts.status == ("ok" if usable >= 32 else "nonfinite" if long else "short")
    assert list(shifts) == []
    verdicts = {SpikeDetector().update(float(value)).status for value in values}
    assert verdicts <= {"short", "nonfinite"}


@pytest.mark.parametrize("kind", INPUTS)
def test_the_effective_sample_size(kind):
    d = INPUTS[kind]
    usable = d.size > 0 and bool((d < math.inf).all())  # -inf is a weight of 0
    assert (0 < ess(d) <= 1) if usable else math.isnan(ess(d))


@pytest.mark.parametrize("kind", INPUTS)
def test_the_sketch(kind):
    d = INPUTS[kind]
    finite = d[np.isfinite(d)]
    sketch = RatioSketch().add(d)
    assert sketch.n == finite.size
    assert sketch.sums["nonfinite"] == d.size - finite.size
    found = sketch.summary()
    assert all(math.isfinite(value) for value in found.values())
    assert found["nonfinite"] == d.size - finite.size
    assert (len(found) > 1) == bool(finite.size)


def test_nothing_public_is_left_out():
    """A new statistic has to come here."""
    tested = set(globals()) | {name.split()[0] for name in TAILS}
    pure = {
        "khat_limit",
        "tail_size",
        "ess_of_sums",
    }  # of sizes and of sums; tested with them
    functions = {
        name
        for name in diagnostics.__all__
        if name[0].islower() and callable(getattr(diagnostics, name))
    }
    assert functions - tested - pure == set()


def test_no_warning_reaches_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for d in INPUTS.values():
            for fit in TAILS.values():
                fit(d, "right")
            divergences(d, prompts(d))
            probability_gap(d, d, prompts(d))
            decompose(logp_rollout=np.zeros(d.size), logp_old=d, logp_train=d)
            attribute(d, prompts(d))
            envelope(d, d)
            ess(d)
            ccdf(d)
            spike_summary(d)
            level_shifts(d)
