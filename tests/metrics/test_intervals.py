import numpy as np
import pytest

from whale.metrics.intervals import bootstrap_interval, cluster_means, mean_interval


def test_the_interval_covers_the_truth_about_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = mean_interval(rng.normal(5.0, 2.0, 60), seed=trial)
        covered += low <= 5.0 <= high
    assert 178 <= covered <= 198


def test_width_matches_the_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    low, high = mean_interval(values, seed=0)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)


def test_seeded_and_paired():
    values = np.random.default_rng(2).normal(size=30)
    assert mean_interval(values, 7) == mean_interval(values, 7)
    assert mean_interval(values, 7) != mean_interval(values, 8)
    low, high = mean_interval(values, 7)
    shifted = bootstrap_interval(lambda drawn: 3 * values[drawn].mean() + 1, 30, 7)
    assert shifted == pytest.approx((3 * low + 1, 3 * high + 1))


def test_constant_values_have_no_width():
    assert mean_interval(np.full(5, 2.0), 0) == (2.0, 2.0)


def test_means_of_clusters_leave_out_what_is_not_known():
    values = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, np.nan], [7.0, np.nan]])
    means = cluster_means(values, np.array([0, 0, 2, 2]))
    np.testing.assert_array_equal(means, [[2.0, 2.0], [np.nan, np.nan], [6.0, np.nan]])
    alone = np.random.default_rng(0).normal(size=(7, 3))
    np.testing.assert_array_equal(cluster_means(alone, np.arange(7)), alone)


def test_the_interval_over_clusters_is_as_wide_as_the_spread_between_clusters():
    """Windows of an episode that are nearly copies of each other do not make the interval narrower."""
    rng = np.random.default_rng(3)
    between, within, clusters, each = 2.0, 0.1, 50, 40
    numbers = np.repeat(np.arange(clusters), each)
    values = between * rng.normal(size=clusters)[numbers] + within * rng.normal(size=clusters * each)
    means = cluster_means(values, numbers)
    low, high = mean_interval(means, 0)
    assert high - low == pytest.approx(2 * 1.96 * means.std() / clusters**0.5, rel=0.08)
    naive = np.subtract(*mean_interval(values, 0)[::-1])
    assert high - low > 5 * naive
