"""Cross-entropy of predicted tokens: distributions that may be wrong are first mixed with the unigram of the tokens.

A predictor that puts no mass on what happens would score infinity. So each is scored as (1 - eps) p + eps u, with u the
share of each token in the train split, and eps the most likely one on the train split. Copy-last-frame becomes a
distribution in the same way: p is 1 for the last frame's token.
"""

import numpy as np

BISECTIONS = 60


def unigram(tokens: np.ndarray, num_codes: int) -> np.ndarray:
    """Share of each of V codes among integer tokens of any shape, each counted once more than seen: float64 [V]."""
    counts = np.bincount(tokens.ravel(), minlength=num_codes) + 1.0
    return counts / counts.sum()


def fit_mixture(p: np.ndarray, u: np.ndarray) -> float:
    """The eps in [0, 1] that maximises sum log((1 - eps) p + eps u) over probabilities of what happened, float64 [M].

    The sum is concave in eps: its derivative is bisected. All u must be positive.
    """
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        eps = (low + high) / 2
        if ((u - p) / (p + eps * (u - p))).sum() > 0:
            low = eps
        else:
            high = eps
    return (low + high) / 2


def cross_entropy(p: np.ndarray, u: np.ndarray, eps: float) -> np.ndarray:
    """Nats a token, averaged over the last axis, of the mixture: probabilities [..., S] twice -> float64 [...]."""
    return -np.log((1 - eps) * p + eps * u).mean(-1)
