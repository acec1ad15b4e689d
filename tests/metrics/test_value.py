import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from whale.metrics import value as metrics

vectors = st.integers(0, 10_000).map(np.random.default_rng)


def draw_pair(rng, ties):
    n = int(rng.integers(3, 20))
    if ties:
        return rng.integers(0, 4, n).astype(float), rng.integers(0, 4, n).astype(float)
    return rng.normal(size=n), rng.normal(size=n)


@given(rng=vectors, ties=st.booleans())
def test_correlations_against_scipy(rng, ties):
    x, y = draw_pair(rng, ties)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert metrics.pearson(x, y) == metrics.spearman(x, y) == 0.0
        return
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    np.testing.assert_allclose(metrics.ranks(x), stats.rankdata(x))


@given(rng=vectors, ties=st.booleans())
def test_mmrv_against_a_plain_loop(rng, ties):
    true, imagined = draw_pair(rng, ties)
    worst = [
        max(abs(true[i] - true[j]) * ((imagined[i] < imagined[j]) != (true[i] < true[j])) for j in range(len(true)))
        for i in range(len(true))
    ]
    assert metrics.mmrv(true, imagined) == pytest.approx(np.mean(worst))


def test_a_perfect_order_has_no_violation_and_no_regret():
    true = np.array([3.0, 1.0, 2.0, 7.0])
    imagined = np.exp(true)  # any increasing function keeps the order
    assert metrics.mmrv(true, imagined) == 0
    assert metrics.spearman(true, imagined) == 1
    assert metrics.regret_at_k(true, imagined, 1) == 0
    assert metrics.value_gap(true, true + 2) == 2
    assert metrics.value_gap_normalised(true, true + 2) == pytest.approx(2 / 6)


def test_regret_of_a_wrong_choice_closed_form():
    true, imagined = np.array([0.0, 4.0, 10.0]), np.array([1.0, 9.0, 5.0])
    assert metrics.regret_at_k(true, imagined, 1) == pytest.approx(0.6)
    assert metrics.regret_at_k(true, imagined, 2) == 0


def test_imagination_that_tells_nothing_earns_nothing_from_ties():
    true = np.array([9.0, 5.0, 1.0])
    assert metrics.regret_at_k(true, np.zeros(3), 1) == 1.0
    assert metrics.pearson(true, np.zeros(3)) == 0.0


def test_pearson_per_start_averages_columns():
    true = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    imagined = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    assert metrics.pearson_per_start(true, imagined) == pytest.approx(0.0)
    assert metrics.pearson_per_start(true, true) == pytest.approx(1.0)
