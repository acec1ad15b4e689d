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
    low, high = np.percentile([statistic(drawn) for drawn in _draws(num_units, seed)], [2.5, 97.5])
    return float(low), float(high)


def _draws(num_units: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, num_units]).integers(num_units, size=(RESAMPLES, num_units))


def bootstrap_counts(num_units: int, seed: int) -> np.ndarray:
    """How often each unit is drawn in the resamples of `bootstrap_interval`, float64 [RESAMPLES, num_units].

    For a statistic that is written with weights, which takes all resamples at once.
    """
    return np.stack([np.bincount(drawn, minlength=num_units) for drawn in _draws(num_units, seed)]).astype(float)


def mean_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """`bootstrap_interval` of the mean of one value per unit, float [N]."""
    return bootstrap_interval(lambda drawn: values[drawn].mean(), len(values), seed)


def cluster_means(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The mean of each cluster's values, NaN left out: float [N, ...] with cluster numbers [N] -> float [E, ...].

    Values of one cluster (windows of an episode) go together, so the cluster is the unit: `mean_interval` of these
    means resamples whole clusters. Every cluster counts the same; one without values is NaN.
    """
    shape = (clusters.max() + 1, *values.shape[1:])
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, clusters, np.nan_to_num(values))
    np.add.at(count, clusters, ~np.isnan(values))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
