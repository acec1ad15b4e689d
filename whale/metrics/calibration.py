"""Whether predicted errors are as large as the observed ones, and the monotone fit that makes them so."""

import numpy as np


def expected_calibration_error(predicted: np.ndarray, observed: np.ndarray, bins: int = 10) -> float:
    """Mean |mean predicted - mean observed| over bins of equal count, in the unit of the errors: float [N] twice.

    For a predicted size of error, where the name is used of predicted probabilities elsewhere. The bins are of
    ascending predictions (sizes differ by one at most, and weigh as many as they hold); where a bin's edge cuts through
    equal predictions, each stands for the mean of what was observed at them.
    """
    values, group = np.unique(predicted, return_inverse=True)
    of_group = np.bincount(group, observed) / np.bincount(group)
    parts = np.array_split(np.sort(group), min(bins, len(predicted)))
    gaps = [abs((values[part] - of_group[part]).sum()) for part in parts]
    return float(sum(gaps) / len(predicted))


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence nearest to `values` in weighted squares, float64 [N] (pool adjacent violators).

    Neighbours in the wrong order are pooled to their mean, until none are (Barlow et al., 1972).
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, count
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, count = value, weight, 1
        while blocks and blocks[-1][0] >= mean:
            before, heavy, many = blocks.pop()
            mean, mass, count = (before * heavy + mean * mass) / (heavy + mass), heavy + mass, many + count
        blocks.append((mean, mass, count))
    return np.repeat([mean for mean, _, _ in blocks], [count for _, _, count in blocks])
