"""The kernel's two ways of summing agree, and the kept top says what all the items say."""

import math

import mpmath
import numpy as np
import pytest

from alpkit.diagnostics import fit_khat, gpd, tail_size
from alpkit.diagnostics.tails import khat_of_top


def test_ratios_formed_or_not_the_fit_is_the_same(monkeypatch):
    rows = -np.sort(-np.random.default_rng(0).exponential(2.0, (3, 400)), axis=-1)
    formed = gpd.zhang_stephens(gpd.log_excess(rows[:, :-1], rows[:, -1:]))
    monkeypatch.setattr(gpd, "_SAFE", -np.inf)
    in_logs = gpd.zhang_stephens(gpd.log_excess(rows[:, :-1], rows[:, -1:]))
    np.testing.assert_allclose(formed.shape, in_logs.shape, rtol=1e-10)
    np.testing.assert_allclose(formed.log_scale, in_logs.log_scale, rtol=1e-10)


def published_shape(tail):
    """Zhang & Stephens 2009 as printed, on the excesses themselves, in 60 digits."""
    with mpmath.workdps(60):
        x = sorted(mpmath.exp(float(value)) - mpmath.exp(float(tail[-1])) for value in tail[:-1])
        n, m = len(x), 30 + int(math.sqrt(len(x)))
        quartile = x[int(n / 4 + 0.5) - 1]
        grid = [1 / x[-1] + (1 - mpmath.sqrt(m / (j - mpmath.mpf(1) / 2))) / (3 * quartile)
                for j in range(1, m + 1)]  # fmt: skip

        def shape(b):
            return sum(mpmath.log(1 - b * value) for value in x) / n

        profile = [n * (mpmath.log(-b / shape(b)) - shape(b) - 1) for b in grid]
        weight = [mpmath.exp(value - max(profile)) for value in profile]
        return float(shape(sum(w * b for w, b in zip(weight, grid)) / sum(weight)))


@pytest.mark.parametrize("top", [4.0, 3000.0])
def test_a_span_beyond_floats_is_the_published_estimate(top):
    """exp(3000) is no float64; the log-space form must give what sixty digits give."""
    tail = np.linspace(top, 1.0, 60)
    fit = gpd.zhang_stephens(gpd.log_excess(tail[:-1], tail[-1:]))
    assert float(fit.shape) == pytest.approx(published_shape(tail), rel=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_kept_top_gives_the_interval_of_all_items(side):
    rng = np.random.default_rng(1)
    d = rng.laplace(0.0, 0.4, 20_000)
    cluster = np.repeat(np.arange(1000), 20)
    whole = fit_khat(d, side=side, cluster=cluster, n_boot=50)
    n_tail = tail_size(d.size)
    signed = d if side == "right" else -d
    kept = np.argsort(-signed, kind="stable")[: 4 * (n_tail + 1)]
    top = khat_of_top(
        signed[kept],
        n=d.size,
        n_tail=n_tail,
        owner=cluster[kept],
        clusters=1000,
        n_boot=50,
    )
    assert top == whole
