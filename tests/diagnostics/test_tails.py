"""Tail fits: another implementation's numbers, known shapes, invariances, and every awkward input."""

import json
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alpkit.diagnostics import fit_gpd, fit_khat, hill, hill_curve, khat_limit, tail_size
from alpkit.diagnostics.gpd import log_excess, zhang_stephens
from tests.support.psis_inputs import draw

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "psis_khat.json").read_text())
RANDOM = json.loads((DATA / "psis_khat_random.json").read_text())


def log_pareto(xi, n, seed):
    """Log of 1 + a generalised Pareto sample with shape xi and scale 1."""
    return np.log1p(stats.genpareto.rvs(xi, size=n, random_state=seed))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_khat_agrees_with_arviz_stats(case):
    """Golden file: arviz-stats `psislw(-log_ratio)`; version and script are inside it.

    arviz takes the floor of the tail size and alpkit, as loo and posterior, the ceiling: the cases
    have sizes where the two are equal, and the last one is refitted with arviz' size.
    """
    d, n_tail = np.array(case["log_ratio"]), case["n_tail"]
    if n_tail == tail_size(d.size):
        assert fit_khat(d, n_boot=0).estimate == pytest.approx(case["khat"], abs=1e-6)
        assert fit_khat(-d, side="left", n_boot=0).estimate == pytest.approx(case["khat"], abs=1e-6)
    # PSIS's k-hat is the tail's generalised Pareto shape with ten observations' worth of 0.5.
    ordered = np.sort(d)[::-1]
    shape = float(zhang_stephens(log_excess(ordered[:n_tail], ordered[n_tail, None])).shape)
    assert (n_tail * shape + 5) / (n_tail + 10) == pytest.approx(case["khat"], abs=1e-6)


def test_khat_agrees_with_arviz_stats_on_a_hundred_random_inputs():
    """Five families, shapes from near-normal to no mean, 25 to 2,500 ratios, both sides."""
    worst = 0.0
    for case in RANDOM["cases"]:
        d = np.array(draw(case["seed"], case["family"], case["shape"], case["n"]))
        for side, values in (("right", d), ("left", -d)):
            ours = fit_khat(values, side=side, n_boot=0).estimate
            worst = max(worst, abs(ours - case["khat"]))
    print(f"largest difference of 100 k-hats from arviz-stats': {worst:.1e}")
    assert worst < 1e-6


def test_the_golden_files_say_where_they_come_from():
    for golden, cases in ((GOLDEN, 10), (RANDOM, 100)):
        assert golden["tool"] == "arviz-stats"
        assert golden["version"] == "0.8.0"
        assert "psislw" in golden["script"]
        assert len(golden["cases"]) == cases
    khats = [case["khat"] for case in RANDOM["cases"]]
    assert min(khats) < -0.5
    assert max(khats) > 2


@pytest.mark.parametrize("xi", [0.2, 0.5, 0.9, 1.5])
def test_gpd_and_hill_find_a_known_shape(xi):
    n = 40_000
    d = log_pareto(xi, n, seed=11)
    fit = fit_gpd(d, side="right")
    assert fit.n_tail == tail_size(n) == 600
    # four asymptotic standard errors (1 + xi)/sqrt k
    assert fit.estimate == pytest.approx(xi, abs=4 * (1 + xi) / math.sqrt(fit.n_tail))
    assert fit.low < fit.estimate < fit.high
    above_zero = fit_gpd(d, threshold=0.0)  # the excess over 1 is the sample itself: scale 1
    assert above_zero.estimate == pytest.approx(xi, abs=4 * (1 + xi) / math.sqrt(n))
    assert above_zero.scale == pytest.approx(1.0, abs=0.05)
    pure = xi * stats.expon.rvs(size=n, random_state=5)  # exact Pareto: Hill is unbiased
    assert hill(pure, 600).estimate == pytest.approx(xi, abs=4 * xi / math.sqrt(600))
    assert hill(-pure, 600, side="left") == hill(pure, 600)


def test_shape_agrees_with_maximum_likelihood():
    d = log_pareto(0.6, 5_000, seed=2)
    fit = fit_gpd(d, threshold=1.0)
    excess = np.exp(d[d > 1.0]) - math.e
    shape, _, scale = stats.genpareto.fit(excess, floc=0)
    assert fit.estimate == pytest.approx(shape, abs=0.02)
    assert fit.scale * math.e == pytest.approx(scale, rel=0.02)


def test_lognormal_hill_of_the_specification():
    """Log-normal sigma = 1, N = 1e5, k = 949 gives Hill 0.32 and GPD 0.22."""
    d = np.random.default_rng(0).normal(0, 1, 100_000)
    assert tail_size(d.size) == 949
    assert hill(d, 949).estimate == pytest.approx(0.36, abs=0.06)
    assert fit_gpd(d).estimate == pytest.approx(0.22, abs=0.12)


def test_khat_of_a_lognormal_is_not_its_limit():
    """0.29 at 10^3 although the limit is 0; docs/tails.md has other sizes."""
    khats = [
        fit_khat(np.random.default_rng(seed).normal(0, 1, 1_000), n_boot=0).estimate
        for seed in range(150)
    ]
    assert np.mean(khats) == pytest.approx(0.287, abs=0.025)


def test_hill_by_hand_and_its_curve():
    d = np.log([1.0, 1.5, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert hill(d, 5).estimate == pytest.approx(np.mean(np.log([2, 4, 8, 16, 32]) - np.log(1.5)))
    ks = np.array([0, 1, 5, 6, 7])
    curve = hill_curve(d, ks)
    np.testing.assert_allclose(curve.estimate[1], math.log(2))
    one = hill(d, 5)
    assert (curve.estimate[2], curve.low[2], curve.high[2]) == pytest.approx(one[:3])
    assert np.isnan(curve.estimate[[0, 4]]).all()
    assert np.isfinite(curve.estimate[3])
    bad = hill_curve(np.array([np.nan, 1.0]), np.array([1]))
    assert bad.status == "nonfinite"
    assert np.isnan(bad.estimate).all()
    assert hill(d, 4).status == "short"


def test_limits():
    assert khat_limit(10) == 0.0
    assert khat_limit(100) == 0.5
    assert khat_limit(10**6) == 0.7
    assert khat_limit(1) == khat_limit(0) == -math.inf
    assert [tail_size(n) for n in (0, 1, 25, 26, 225, 1000)] == [0, 1, 5, 6, 45, 95]


def test_a_heavy_tail_is_high_and_a_light_one_ok():
    d = log_pareto(1.2, 2_500, seed=0)
    fit = fit_khat(d)
    assert fit.status == "high"
    assert fit.n == 2_500
    assert fit.n_tail == 150
    assert fit.threshold == np.sort(d)[-151]
    light = fit_khat(d, side="left")
    assert light.status == "ok"
    assert light.estimate < 0.3


def test_the_interval_covers_the_shape_about_as_often_as_it_says():
    """90 % intervals; with other seeds 84 to 92 of 100 covered at shapes 0.3 to 1.2."""
    fits = [fit_khat(log_pareto(0.9, 2_500, seed), n_boot=60, seed=seed) for seed in range(50)]
    assert sum(fit.low < 0.9 < fit.high for fit in fits) >= 37
    assert np.mean([fit.estimate for fit in fits]) == pytest.approx(0.87, abs=0.07)


def test_clusters_widen_the_interval():
    rng = np.random.default_rng(8)
    prompt = np.repeat(np.arange(50), 50)
    d = rng.normal(0, 0.1, 2_500) + rng.standard_t(3, 50)[prompt] * 0.2
    alone, grouped = fit_khat(d), fit_khat(d, cluster=prompt)
    assert grouped.estimate == alone.estimate
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    one = fit_khat(d, cluster=np.zeros(2_500, int))
    assert math.isnan(one.low)
    assert one.estimate == alone.estimate


def test_clustered_intervals_cover_where_independent_ones_do_not():
    """Clustered data; docs/tails.md has all estimators on 600 samples."""
    prompt = np.repeat(np.arange(200), 20)
    draws = []
    for seed in range(500):
        rng = np.random.default_rng([seed, 77])
        draws.append(rng.normal(0, 0.5, 200)[prompt] + 0.2 * rng.exponential(size=4_000))
    truth = np.mean([hill(d, 190).estimate for d in draws])
    covered = []
    for d in draws[:100]:
        fits = [hill(d, 190, cluster=by, n_boot=100) for by in (prompt, None)]
        covered.append([fit.low < truth < fit.high for fit in fits])
    by_prompt, by_token = np.mean(covered, axis=0)
    print(f"coverage of 90 % intervals: {by_prompt:.2f} by prompt, {by_token:.2f} by token")
    assert 0.82 <= by_prompt <= 0.97
    assert by_token < 0.65


def test_every_estimator_takes_clusters_and_the_curve_agrees_with_hill():
    rng = np.random.default_rng(3)
    prompt = np.repeat(np.arange(60), 40)
    d = rng.normal(0, 0.5, 60)[prompt] + 0.2 * rng.exponential(size=2_400)
    for fit in (partial(hill, d, 147), partial(fit_gpd, d), partial(fit_gpd, d, threshold=1.0)):
        alone, grouped = fit(), fit(cluster=prompt, n_boot=100)
        assert grouped.estimate == alone.estimate
        assert grouped.high - grouped.low > 1.2 * (alone.high - alone.low)
        assert grouped == fit(cluster=prompt, n_boot=100)
        assert math.isnan(fit(cluster=np.zeros_like(prompt)).low)
    curve = hill_curve(d, np.array([30, 147]), cluster=prompt, n_boot=100)
    one = hill(d, 147, cluster=prompt, n_boot=100)
    assert curve.estimate[1] == pytest.approx(one.estimate)
    assert curve.low[1] == pytest.approx(one.low, rel=0.02)
    assert curve.high[1] == pytest.approx(one.high, rel=0.02)


def test_interval_is_reproducible_and_depends_on_the_seed():
    d = log_pareto(0.4, 400, seed=0)
    assert fit_khat(d, seed=1) == fit_khat(d, seed=1)
    assert fit_khat(d, seed=1).low != fit_khat(d, seed=2).low
    assert math.isnan(fit_khat(d, n_boot=0).low)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(-300, 300), st.floats(0.01, 3))
def test_scaling_the_ratios_and_shuffling_change_nothing(seed, shift, spread):
    rng = np.random.default_rng(seed)
    d = rng.standard_t(3, 120) * spread
    order = rng.permutation(120)
    cluster = np.arange(120) // 6
    base = fit_khat(d, cluster=cluster, n_boot=20)
    moved = fit_khat(d[order] + shift, cluster=cluster[order] * 5 - 9, n_boot=20)
    for name in ("estimate", "low", "high", "scale"):
        assert getattr(moved, name) == pytest.approx(getattr(base, name), rel=1e-6, abs=1e-6), name
    assert moved.status == base.status or shift + d.max() >= 20
    assert fit_gpd(d[order] + shift).estimate == pytest.approx(fit_gpd(d).estimate, abs=1e-6)
    assert hill(d[order] + shift, 24).estimate == pytest.approx(hill(d, 24).estimate, abs=1e-9)


@pytest.mark.parametrize(
    ("d", "status"),
    [
        (np.array([]), "short"),
        (np.array([0.3]), "short"),
        (np.linspace(0, 1, 20), "short"),
        (np.zeros(100), "flat"),
        (np.full(1000, 0.7), "flat"),
        (np.r_[np.zeros(900), np.linspace(0.01, 1, 20)], "flat"),  # atom inside the tail
        (np.r_[np.linspace(0, 1, 95), np.nan], "nonfinite"),
        (np.r_[np.linspace(0, 1, 95), np.inf], "nonfinite"),
        (np.r_[np.linspace(0, 1, 95), -np.inf], "nonfinite"),
        (np.minimum(np.linspace(0, 1, 100), 0.7), "flat"),  # truncation reaches the threshold
        (np.r_[np.linspace(0, 10, 98), 20.0, 20.0], "saturated"),  # a clamp at 20 nats
        (np.minimum(np.linspace(0, 1, 100), 0.9), "saturated"),  # a truncated weight
        (np.linspace(0, 1, 100), "ok"),
    ],
)
def test_awkward_input_is_a_status_and_never_an_error(d, status):
    k = tail_size(d.size)
    for fit in (fit_khat(d), fit_gpd(d), hill(d, k), fit_khat(-d, side="left")):
        assert fit.status == status
        assert fit.n == d.size
        assert math.isfinite(fit.estimate) == (status in ("ok", "saturated"))
    fit_gpd(d, threshold=0.5)
    fit_gpd(d, threshold=1e9)
    hill_curve(d, np.arange(1, 5))


def test_a_clamp_that_swallows_the_tail_is_not_called_flat():
    d = np.minimum(np.linspace(0, 30, 100), 20.0)
    assert fit_khat(d).status == fit_gpd(d).status == hill(d, 20).status == "saturated"
    assert math.isnan(fit_khat(d).estimate)
    assert math.isnan(fit_khat(d).high)
    assert math.isnan(fit_gpd(d).estimate)
    assert hill_curve(d, np.array([40])).status == "saturated"


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 100.0, 3_000.0])
def test_extreme_spreads_stay_finite(scale):
    d = np.random.default_rng(1).normal(0, 1, 400) * scale
    for side in ("right", "left"):
        fit = fit_khat(d, side=side, n_boot=50)
        assert all(math.isfinite(value) for value in fit[:7])
        assert fit.low <= fit.estimate <= fit.high


def test_bootstrap_is_quick_enough():
    d = np.random.default_rng(0).standard_t(4, 2_500) * 0.1
    cluster = np.arange(2_500) // 40
    best = min(_seconds(lambda: fit_khat(d, cluster=cluster)) for _ in range(3))
    print(f"400 replicates on 2,500 tokens: {best * 1e3:.0f} ms")
    assert best < 0.5


def _seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
