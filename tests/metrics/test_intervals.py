import numpy as np
import pytest

from whale.metrics.intervals import bootstrap_interval, mean_interval


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
