"""Bootstrap intervals: what else the figure might have been, had other episodes or start states been drawn."""

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000


def bootstrap_interval(statistic: Callable[[np.ndarray], float], num_units: int, seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic under resampling of its units with replacement.

    Args:
        statistic: maps the indices of the drawn units, int [num_units] with repeats, to the figure.
        num_units: how many independent units (episodes, start states) there are.
        seed: the same seed and number of units draw the same samples, so that figures of one run are resampled alike.
    """
    rng = np.random.default_rng([seed, num_units])
    draws = rng.integers(num_units, size=(RESAMPLES, num_units))
    low, high = np.percentile([statistic(drawn) for drawn in draws], [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """`bootstrap_interval` of the mean of one value per unit, float [N]."""
    return bootstrap_interval(lambda drawn: values[drawn].mean(), len(values), seed)
