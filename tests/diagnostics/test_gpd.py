"""The kernel's two ways of summing agree, and the kept top says what all the items say."""

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


def test_a_span_beyond_floats_still_fits():
    tail = np.linspace(3000.0, 1.0, 200)
    assert np.isfinite(gpd.zhang_stephens(gpd.log_excess(tail[:-1], tail[-1:])).shape)


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
