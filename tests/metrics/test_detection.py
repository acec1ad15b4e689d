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


def of_all(statistic, scores, targets):
    """Of the sample itself."""
    found = statistic(scores, targets, np.ones((len(scores), 1)))
    assert found.shape == (1,)
    return found[0]


@given(rng=generators, ties=st.booleans())
def test_auroc_against_counting_pairs_and_mann_whitney(rng, ties):
    scores, errors = draw(rng, ties)
    wrong = errors > np.median(errors)
    pairs = [(a > b) + (a == b) / 2 for a in scores[wrong] for b in scores[~wrong]]
    found = of_all(detection.auroc, scores, wrong)
    assert found == pytest.approx(np.mean(pairs))
    assert found == pytest.approx(stats.mannwhitneyu(scores[wrong], scores[~wrong]).statistic / len(pairs))
    assert of_all(detection.auroc, -scores, wrong) == pytest.approx(1 - found)


def test_auroc_in_closed_form():
    wrong = np.array([False, False, True, True])
    assert of_all(detection.auroc, np.array([1.0, 2.0, 3.0, 4.0]), wrong) == 1
    assert of_all(detection.auroc, np.array([4.0, 3.0, 2.0, 1.0]), wrong) == 0
    assert of_all(detection.auroc, np.array([1.0, 3.0, 2.0, 4.0]), wrong) == 0.75
    assert of_all(detection.auroc, np.ones(4), wrong) == 0.5
    for all_or_none in (np.ones(4, bool), np.zeros(4, bool)):
        assert of_all(detection.auroc, np.arange(4.0), all_or_none) == 0.5


@given(rng=generators, ties=st.booleans())
def test_rank_correlation_against_scipy(rng, ties):
    scores, errors = draw(rng, ties)
    if np.ptp(scores):
        expected = stats.spearmanr(scores, errors).statistic
        assert of_all(detection.rank_correlation, scores, errors) == pytest.approx(expected)
    assert of_all(detection.rank_correlation, np.ones(len(errors)), errors) == 0


@given(rng=generators, ties=st.booleans())
def test_area_is_the_average_over_orders_of_equal_scores(rng, ties):
    scores, errors = (values[:5] for values in draw(rng, ties))
    orders = [order for order in map(list, permutations(range(len(scores)))) if (np.diff(scores[order]) >= 0).all()]
    areas = [(errors[order].cumsum() / np.arange(1, len(scores) + 1)).mean() for order in orders]
    assert of_all(detection.risk_coverage_area, scores, errors) == pytest.approx(np.mean(areas))


def test_area_in_closed_form():
    errors = np.array([1.0, 2.0, 3.0, 6.0])
    assert of_all(detection.risk_coverage_area, errors, errors) == pytest.approx((1 + 1.5 + 2 + 3) / 4)
    assert of_all(detection.risk_coverage_area, -errors, errors) == pytest.approx((6 + 4.5 + 11 / 3 + 3) / 4)
    assert of_all(detection.risk_coverage_area, np.zeros(4), errors) == pytest.approx(3)


@given(rng=generators, ties=st.booleans())
def test_a_resample_is_the_sample_that_was_drawn(rng, ties):
    scores, errors = draw(rng, ties)
    counts = rng.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), 3)
    wrong = errors > np.median(errors)
    for statistic, targets in ((detection.auroc, wrong), (detection.risk_coverage_area, errors)):
        found = statistic(scores, targets, counts.T.astype(float))
        drawn = [of_all(statistic, scores.repeat(count), targets.repeat(count)) for count in counts]
        assert found == pytest.approx(drawn)
