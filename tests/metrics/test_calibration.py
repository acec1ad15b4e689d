import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from whale.metrics.calibration import expected_calibration_error, isotonic

generators = st.integers(0, 10_000).map(np.random.default_rng)


@given(rng=generators, ties=st.booleans())
def test_isotonic_against_scipy(rng, ties):
    n = int(rng.integers(1, 60))
    values = rng.integers(0, 5, n).astype(float) if ties else rng.normal(size=n) + rng.normal() * np.arange(n) / n
    weights = rng.uniform(0.1, 5, n)
    np.testing.assert_allclose(isotonic(values, weights), isotonic_regression(values, weights=weights).x, atol=1e-12)


def test_isotonic_in_closed_form():
    assert isotonic(np.array([1.0, 3.0, 2.0, 4.0]), np.ones(4)).tolist() == [1, 2.5, 2.5, 4]
    assert isotonic(np.array([3.0, 0.0]), np.array([1.0, 2.0])).tolist() == [1, 1]


def test_ece_in_closed_form():
    rng = np.random.default_rng(0)
    predicted = rng.permutation(np.arange(1000.0))
    assert expected_calibration_error(predicted, predicted) == 0
    assert expected_calibration_error(predicted, predicted + 3) == pytest.approx(3)
    # 1 too much in the lower half, 2 too little in the upper: bins of equal count see both, one bin the mean.
    observed = predicted + np.where(predicted < 500, -1, 2)
    assert expected_calibration_error(predicted, observed) == pytest.approx(1.5)
    assert expected_calibration_error(predicted, observed, bins=1) == pytest.approx(0.5)


@given(rng=generators)
def test_ece_does_not_depend_on_the_order_of_the_samples(rng):
    n = int(rng.integers(1, 50))
    predicted, observed, order = rng.integers(0, 4, n).astype(float), rng.exponential(size=n), rng.permutation(n)
    one = expected_calibration_error(predicted, observed, 5)
    assert expected_calibration_error(predicted[order], observed[order], 5) == pytest.approx(one, abs=1e-12)


@given(rng=generators)
def test_ece_of_distinct_predictions_against_plain_bins(rng):
    n = int(rng.integers(10, 60))
    predicted, observed = rng.permutation(n) + rng.random(), rng.exponential(size=n)
    parts = np.array_split(np.argsort(predicted), 10)
    plain = sum(len(part) * abs(predicted[part].mean() - observed[part].mean()) for part in parts) / n
    assert expected_calibration_error(predicted, observed) == pytest.approx(plain)
