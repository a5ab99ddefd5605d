"""What a stream leaves behind is what all of it in memory would say."""

import numpy as np

from alpkit.analysis.reading import reducers


def test_the_largest_survive_any_order():
    rng = np.random.default_rng(0)
    values, cluster = rng.permutation(5000).astype(float), np.arange(5000)
    kept = reducers.Largest(50)
    for part in np.split(np.arange(5000), 20):
        kept.add(values[part], cluster[part])
    top = kept.top()
    np.testing.assert_array_equal(top.values, np.arange(4999.0, 4949.0, -1))
    np.testing.assert_array_equal(values[top.cluster], top.values)


def test_bins_are_the_edges_own():
    values = np.random.default_rng(0).laplace(0, 1, 10_000).astype(np.float32).astype(float)
    values[:3] = [0.5, -0.5, 0.0]  # on an edge, below all, no ratio at all
    expected = np.searchsorted(reducers.EDGES, values, side="left")
    np.testing.assert_array_equal(reducers.bin_of(values), expected)


def test_clustered_band_is_wider_than_the_independent_one():
    rng = np.random.default_rng(0)
    shared = np.repeat(rng.normal(size=100), 20)

    def width(cluster, clusters):
        curve = reducers.Survival()
        curve.add(shared, cluster, clusters, 0)
        found = curve.curve("right")
        middle = (found.log_size > 0.2) & (found.log_size < 1.5)
        return (found.high - found.low)[middle].mean()

    ratio = width(np.repeat(np.arange(100), 20), 100) / width(np.arange(2000), 2000)
    # 20 copies of one draw: sqrt(20) = 4.5 times the independent width.
    assert 3.5 < ratio < 5.5
