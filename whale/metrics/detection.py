"""Whether a score knows that something is wrong: N scores, the higher the more doubtful, against N errors.

Equal scores are in no order: they count as any order of them does on average. A score that is the same everywhere knows
nothing, and has an AUROC of 0.5. The rank correlation of the two is `whale.metrics.value.spearman`.
"""

import numpy as np

from whale.metrics.value import ranks


def auroc(scores: np.ndarray, wrong: np.ndarray) -> float:
    """Chance that a wrong one of two has the higher score, ties counted half: float [N], bool [N].

    The Mann-Whitney statistic over the number of pairs; 0.5 where all are wrong, or none, for then there are no pairs.
    """
    num_wrong, num_right = int(wrong.sum()), int((~wrong).sum())
    if num_wrong == 0 or num_right == 0:
        return 0.5
    return float((ranks(scores)[wrong].sum() - num_wrong * (num_wrong + 1) / 2) / (num_wrong * num_right))


def auroc_by_horizon(scores: np.ndarray, errors: np.ndarray, quantile: float) -> np.ndarray:
    """AUROC at each horizon for the errors above this quantile of the errors at that horizon: [N, H] twice -> [H].

    Both grow along a rollout, so that pooled over horizons the number of the step alone would pass for a detector.
    """
    wrong = errors > np.quantile(errors, quantile, axis=0)
    return np.array([auroc(scores[:, h], wrong[:, h]) for h in range(scores.shape[1])])


def risk_coverage(scores: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Mean error of the n + 1 least doubtful, for n below N: float [N], in the unit of the errors."""
    _, group = np.unique(scores, return_inverse=True)
    of_group = np.bincount(group, errors) / np.bincount(group)  # of equal scores, each stands for their mean
    return of_group[np.sort(group)].cumsum() / np.arange(1, len(scores) + 1)


def risk_coverage_area(scores: np.ndarray, errors: np.ndarray) -> float:
    """Mean of `risk_coverage` over coverages 1/N to 1; a score that knows nothing leaves the mean error."""
    return float(risk_coverage(scores, errors).mean())
