"""Whether a score knows that something is wrong: N scores, the higher the more doubtful, against N errors.

Every statistic is taken of R resamples at once, `counts` float [N, R] saying how often each of the N was drawn into
each (where all are 1, it is the sample itself). Equal scores are in no order: they count as any order of them does on
average. A score that is the same everywhere knows nothing.

Legend: N samples, R resamples.
"""

import numpy as np

from whale.metrics.value import ranks


def auroc(scores: np.ndarray, wrong: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Chance that a wrong one of two has the higher score, ties counted half: float [N], bool [N] -> float [R].

    The Mann-Whitney statistic over the number of pairs; 0.5 where all are wrong, or none, for then there are no pairs.
    """
    wrongs, order = counts[wrong], np.argsort(scores[~wrong])
    right = scores[~wrong][order]
    below = np.concatenate([np.zeros((1, counts.shape[1])), counts[~wrong][order].cumsum(0)])  # of the n lowest right
    first, last = np.searchsorted(right, scores[wrong]), np.searchsorted(right, scores[wrong], side="right")
    won, pairs = (wrongs * (below[first] + below[last])).sum(0) / 2, wrongs.sum(0) * below[-1]
    return np.where(pairs > 0, won / np.maximum(pairs, 1), 0.5)


def rank_correlation(scores: np.ndarray, errors: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's, the ranks being those among all N: float [N] twice -> float [R]; 0 where one side is constant."""
    weights = counts / counts.sum(0)
    x, y = (ranks(values)[:, None] - ranks(values) @ weights for values in (scores, errors))
    covariance, square = (weights * x * y).sum(0), (weights * x**2).sum(0) * (weights * y**2).sum(0)
    return np.where(square > 1e-9, covariance / np.sqrt(np.maximum(square, 1e-9)), 0.0)


def risk_coverage_area(scores: np.ndarray, errors: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean error of the n least doubtful, averaged over n from 1 to all: float [N] twice -> float [R].

    In the unit of the errors; a score that knows nothing leaves the mean error. Of d equal scores with mean error e,
    after m with errors that sum to s, the n-th adds (s + n e) / (m + n) = e + (s - m e) / (m + n): a harmonic sum.
    """
    order = np.argsort(scores)
    _, begin = np.unique(scores[order], return_index=True)
    drawn, risk = (np.add.reduceat(each[order], begin) for each in (counts, counts * errors[:, None]))
    mean, last = risk / np.maximum(drawn, 1), drawn.cumsum(0).astype(int)
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, last.max() + 1))])
    first = last - drawn.astype(int)
    rest = (risk.cumsum(0) - risk - first * mean) * (harmonic[last] - harmonic[first])
    return (risk + rest).sum(0) / last[-1]
