"""How well imagined values order and measure policies.

V_i is the true and V̂_i the imagined value of policy i, float [P]; arrays per start state are [P, N]. A side on which
all policies have the same value says nothing about them: its correlations are 0, not undefined.
"""

import numpy as np


def value_gap(true: np.ndarray, imagined: np.ndarray) -> float:
    """Mean |V_i - V̂_i|, in the unit of the return."""
    return float(np.abs(true - imagined).mean())


def value_gap_normalised(true: np.ndarray, imagined: np.ndarray) -> float:
    """The value gap over the range of the true values."""
    return value_gap(true, imagined) / _range(true)


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Linear correlation of two vectors [P]; 0 where one of them is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - np.mean(x), y - np.mean(y)
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their average rank: float [P]."""
    ascending = np.sort(values)
    return (np.searchsorted(ascending, values) + np.searchsorted(ascending, values, side="right") + 1) / 2


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of two vectors [P]; 0 where one of them is constant."""
    return pearson(ranks(x), ranks(y))


def mmrv(true: np.ndarray, imagined: np.ndarray) -> float:
    """Mean maximum rank violation: mean_i max_j |V_i - V_j| 1[(V̂_i < V̂_j) != (V_i < V_j)]."""
    violated = (imagined[:, None] < imagined[None, :]) != (true[:, None] < true[None, :])
    return float((np.abs(true[:, None] - true[None, :]) * violated).max(1).mean())


def regret_at_k(true: np.ndarray, imagined: np.ndarray, k: int) -> float:
    """What is lost by taking the best of the k policies that imagination likes most, over the range of the true values.

    Among equal imagined values the truly worse policy is taken first: imagination that tells nothing gains nothing.
    """
    chosen = np.lexsort((true, -imagined))[:k]
    return float(true.max() - true[chosen].max()) / _range(true)


def pearson_per_start(true: np.ndarray, imagined: np.ndarray) -> float:
    """Correlation over the policies from one start state, averaged over the start states: [P, N] twice."""
    return float(np.mean([pearson(true[:, n], imagined[:, n]) for n in range(true.shape[1])]))


def _range(true: np.ndarray) -> float:
    """Range of the true values; 1 where they are all equal, for then nothing can be gained or lost by a choice."""
    return float(np.ptp(true)) or 1.0
