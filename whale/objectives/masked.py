"""Means over what is known.

A clip can be padded, a reward unknown. The mean over a global batch is a sum divided by a count over all its clips, so
a part of the batch (of a rank, of a micro-batch) divides its own sum by its share of the global count: then the mean
over parts is exactly the mean over the batch, whatever is masked where.
"""

from torch import Tensor

Counts = dict[str, Tensor]
"""By name of a mask: how many entries of it are True, as float32 scalars; see `Objective.counts`."""


def masked_mean(value: Tensor, mask: Tensor, count: Tensor) -> Tensor:
    """Sum over the True entries, divided by `count`; zero where there are none."""
    return (value * mask).sum() / count.clamp_min(1e-6)


def mean_of(value: Tensor, mask: Tensor) -> Tensor:
    """Mean over the True entries of this tensor alone, zero where there are none."""
    return masked_mean(value, mask, mask.sum().clamp_min(1))
