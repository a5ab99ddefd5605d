"""Goodness of fit and the log-normal question: right p-values where the answer is known."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from alpkit.diagnostics import compare_lognormal, fit_gpd, fit_gpd_mle, goodness_of_fit
from alpkit.diagnostics.fit_tests import _log_quantile


def log_gpd(xi, n, seed):
    return np.log1p(stats.genpareto.rvs(xi, size=n, random_state=seed))


@pytest.mark.parametrize("xi", [-0.3, 0.0, 0.4, 1.1])
def test_statistics_are_scipys(xi):
    """KS against `scipy.stats.kstest`, A^2 against its definition, on the excesses themselves."""
    d = log_gpd(xi, 400, seed=4)
    got = goodness_of_fit(d, threshold=0.1, n_boot=1)
    fit = fit_gpd(d, threshold=0.1)
    excess = np.sort(np.exp(d[d > 0.1]) - math.exp(0.1))
    law = stats.genpareto(fit.estimate, scale=fit.scale * math.exp(0.1))
    assert got.ks == pytest.approx(stats.kstest(excess, law.cdf).statistic, rel=1e-6)
    i = np.arange(1, excess.size + 1)
    terms = (2 * i - 1) * (law.logcdf(excess) + law.logsf(excess)[::-1])
    assert got.ad == pytest.approx(-excess.size - terms.mean(), rel=1e-6)
    assert got.n_tail == excess.size
    assert got.shape == fit.estimate


def test_p_values_of_a_true_model_are_uniform():
    ps = np.array(
        [
            goodness_of_fit(log_gpd(0.4, 900, seed), n_boot=60, seed=seed)[1:4:2]
            for seed in range(80)
        ]
    )
    for p in ps.T:
        assert stats.kstest(p, "uniform").pvalue > 1e-3
    # the naive table, which does not know of the refit, would say p > 0.2 nearly always
    assert (ps < 0.2).mean() > 0.08


def test_a_tail_that_is_no_gpd_is_rejected():
    rng = np.random.default_rng(0)
    two_humps = np.r_[rng.normal(1.0, 0.02, 300), rng.normal(2.0, 0.02, 300), np.zeros(4_000)]
    got = goodness_of_fit(two_humps, threshold=0.5, n_boot=99)
    assert got.ks_p == got.ad_p == 0.01
    assert got.status == "ok"


def test_p_values_are_reproducible_and_need_draws():
    d = log_gpd(0.4, 900, 0)
    assert goodness_of_fit(d, seed=3) == goodness_of_fit(d, seed=3)
    assert math.isnan(goodness_of_fit(d, n_boot=0).ks_p)
    assert goodness_of_fit(-d, side="left", n_boot=20) == goodness_of_fit(d, n_boot=20)


@pytest.mark.parametrize("xi", [-0.6, 0.0, 0.7])
def test_simulated_draws_have_the_law(xi):
    draws = np.exp(_log_quantile(np.random.default_rng(0).standard_exponential(5_000), xi))
    assert stats.kstest(draws, stats.genpareto(xi).cdf).pvalue > 0.01


@pytest.mark.parametrize("xi", [-0.2, 0.0, 0.2, 0.5, 0.8, 1.2])
def test_gpd_is_within_its_standard_error_of_scipys_likelihood(xi):
    for seed in range(10):
        d = log_gpd(xi, 2_500, seed)
        ours, likelihood = fit_gpd(d), fit_gpd_mle(d)
        standard_error = (1 + likelihood.estimate) / math.sqrt(ours.n_tail)
        assert abs(ours.estimate - likelihood.estimate) < standard_error
        excess = np.exp(np.sort(d)[::-1][: ours.n_tail] - ours.threshold) - 1
        shape, _, scale = stats.genpareto.fit(excess, floc=0)
        assert likelihood.estimate == pytest.approx(shape, abs=2e-3)
        assert likelihood.scale == pytest.approx(scale, rel=2e-3)


def test_likelihood_has_limits_and_says_so():
    assert fit_gpd_mle(np.zeros(100)).status == "flat"
    huge = fit_gpd_mle(np.random.default_rng(0).normal(0, 3_000, 400))
    assert huge.status == "nonfinite"
    bounded = fit_gpd_mle(np.log(np.random.default_rng(0).uniform(size=10_000)))
    assert bounded.estimate == pytest.approx(-1, abs=0.15)
    assert math.isnan(bounded.low)


def cut_normal_by_search(excess):
    """Log-likelihood of the best normal cut at 0, by a general optimizer over mean and log sd."""

    def loss(parameters):
        mean, log_sd = parameters
        law = stats.norm(mean, math.exp(log_sd))
        return -(law.logpdf(excess).sum() - excess.size * law.logsf(0.0))

    starts = ((0.0, 0.0), (excess.mean(), math.log(excess.std())), (-5.0, 1.0))
    return -min(optimize.minimize(loss, start, method="Nelder-Mead").fun for start in starts)


@pytest.mark.parametrize("spread", [0.05, 0.5, 2.0])
def test_the_likelihood_ratio_is_the_optimizers(spread):
    d = np.random.default_rng(1).normal(0, spread, 2_500)
    got = compare_lognormal(d)
    excess = np.sort(d)[::-1][: got.n_tail] - got.threshold
    pareto = stats.expon(scale=excess.mean()).logpdf(excess).sum()
    assert got.log_likelihood_ratio == pytest.approx(
        cut_normal_by_search(excess) - pareto, abs=1e-3
    )


def test_p_values_of_a_true_power_law_keep_their_level():
    ps = np.array(
        [
            compare_lognormal(0.5 * np.random.default_rng(s).exponential(size=2_500)).p
            for s in range(400)
        ]
    )
    # the CV of 150 exponentials is below 1 a little more often than not
    assert np.mean(ps == 1.0) == pytest.approx(0.45, abs=0.08)
    assert np.mean(ps < 0.05) == pytest.approx(0.05, abs=0.035)


@pytest.mark.parametrize(
    ("draw", "favours"),
    [
        (lambda rng: rng.normal(0, 1, 20_000), "lognormal"),
        (lambda rng: np.minimum(rng.normal(0, 1, 20_000), 3.0), "lognormal"),
        (lambda rng: 0.5 * rng.exponential(size=20_000), "power law"),
        (lambda rng: rng.standard_t(2, 20_000), "neither"),  # exp of a power law: heavier still
    ],
)
def test_known_tails_get_their_verdict(draw, favours):
    got = compare_lognormal(draw(np.random.default_rng(0)), k=4_000)
    assert got.favours == favours
    assert got.statistic >= 0
    left = compare_lognormal(-draw(np.random.default_rng(0)), side="left", k=4_000)
    assert left == got
