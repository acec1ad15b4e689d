import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whale.metrics.token_entropy import cross_entropy, fit_mixture, unigram


def test_unigram_counts_each_token_and_one_more():
    np.testing.assert_allclose(unigram(np.array([[0, 0], [2, 0]]), 4), [4 / 8, 1 / 8, 2 / 8, 1 / 8])


def test_cross_entropy_by_hand():
    """One token of two is right: -(log(0.9 + 0.1 / 4) + log(0.1 / 2)) / 2."""
    p, u = np.array([[1.0, 0.0]]), np.array([[0.25, 0.5]])
    np.testing.assert_allclose(cross_entropy(p, u, 0.1), [-(np.log(0.925) + np.log(0.05)) / 2])


@given(st.integers(0, 2**32 - 1))
def test_the_mixture_is_the_best_of_a_fine_grid(seed):
    rng = np.random.default_rng(seed)
    p, u = rng.random(50) * (rng.random(50) < rng.random()), rng.uniform(0.001, 0.2, 50)
    fitted = fit_mixture(p, u)
    grid = np.linspace(0, 1, 2001)[1:]
    best = min(cross_entropy(p, u, eps) for eps in grid)
    assert cross_entropy(p, u, fitted) <= best + 1e-12


def test_the_mixture_of_copies_in_closed_form():
    """A share q of copies right and u equal for all codes: (1 - eps) + eps u = q."""
    right, u = np.repeat([1.0, 0.0], [70, 30]), np.full(100, 0.02)
    assert fit_mixture(right, u) == pytest.approx(0.3 / 0.98)
    assert fit_mixture(np.ones(5), np.full(5, 0.1)) == pytest.approx(0, abs=1e-12)
    assert fit_mixture(np.zeros(5), np.full(5, 0.1)) == pytest.approx(1)
