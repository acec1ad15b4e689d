from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from whale.metrics import detection

generators = st.integers(0, 10_000).map(np.random.default_rng)


def draw(rng, ties):
    n = int(rng.integers(4, 40))
    scores = rng.integers(0, 4, n).astype(float) if ties else rng.normal(size=n)
    return scores, rng.exponential(size=n)


@given(rng=generators, ties=st.booleans())
def test_auroc_against_counting_pairs_and_mann_whitney(rng, ties):
    scores, errors = draw(rng, ties)
    wrong = errors > np.median(errors)
    pairs = [(a > b) + (a == b) / 2 for a in scores[wrong] for b in scores[~wrong]]
    found = detection.auroc(scores, wrong)
    assert found == pytest.approx(np.mean(pairs))
    assert found == pytest.approx(stats.mannwhitneyu(scores[wrong], scores[~wrong]).statistic / len(pairs))
    assert detection.auroc(-scores, wrong) == pytest.approx(1 - found)


def test_auroc_in_closed_form():
    wrong = np.array([False, False, True, True])
    assert detection.auroc(np.array([1.0, 2.0, 3.0, 4.0]), wrong) == 1
    assert detection.auroc(np.array([4.0, 3.0, 2.0, 1.0]), wrong) == 0
    assert detection.auroc(np.array([1.0, 3.0, 2.0, 4.0]), wrong) == 0.75
    assert detection.auroc(np.ones(4), wrong) == 0.5
    assert (
        detection.auroc(np.arange(4.0), np.ones(4, bool)) == detection.auroc(np.arange(4.0), ~np.ones(4, bool)) == 0.5
    )


def test_within_a_horizon_the_number_of_the_step_knows_nothing():
    """Pooled over horizons it would be a near-perfect detector of errors that grow."""
    rng = np.random.default_rng(0)
    errors = np.arange(8) * 10 + rng.random((50, 8))
    step = np.broadcast_to(np.arange(8.0), errors.shape)
    assert detection.auroc(step.ravel(), errors.ravel() > np.median(errors)) == 1
    assert (detection.auroc_by_horizon(step, errors, 0.5) == 0.5).all()
    assert (detection.auroc_by_horizon(errors, errors, 0.9) == 1).all()
    one = detection.auroc_by_horizon(rng.random((50, 8)), errors, 0.5)
    assert one.shape == (8,)


def test_the_share_above_the_quantile_is_what_is_called_wrong():
    errors = np.arange(20.0)[:, None]
    scores = (errors >= 18).astype(float)  # knows the two largest of twenty, and no other
    assert detection.auroc_by_horizon(scores, errors, 0.9)[0] == 1
    assert detection.auroc_by_horizon(scores, errors, 0.5)[0] == pytest.approx(0.2 + 0.8 / 2)


@given(rng=generators, ties=st.booleans())
def test_risk_coverage_is_the_average_over_orders_of_equal_scores(rng, ties):
    scores, errors = (values[:5] for values in draw(rng, ties))
    orders = [order for order in map(list, permutations(range(len(scores)))) if (np.diff(scores[order]) >= 0).all()]
    curves = [errors[order].cumsum() / np.arange(1, len(scores) + 1) for order in orders]
    np.testing.assert_allclose(detection.risk_coverage(scores, errors), np.mean(curves, 0))


def test_risk_coverage_area_in_closed_form():
    errors = np.array([1.0, 2.0, 3.0, 6.0])
    assert detection.risk_coverage_area(errors, errors) == pytest.approx((1 + 1.5 + 2 + 3) / 4)
    assert detection.risk_coverage_area(-errors, errors) == pytest.approx((6 + 4.5 + 11 / 3 + 3) / 4)
    assert detection.risk_coverage_area(np.zeros(4), errors) == pytest.approx(3)
