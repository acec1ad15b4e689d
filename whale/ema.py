"""An exponential moving average of the weights (Polyak and Juditsky, 1992), kept beside those that are trained."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def averaged(model: nn.Module) -> dict[str, Tensor]:
    """What changes in training and is stored, by name: trainable parameters, and buffers of floating-point numbers."""
    return {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if value.is_floating_point() and (value.requires_grad or not isinstance(value, nn.Parameter))
    }


class WeightAverage:
    """The average of some tensors over updates, on the device where they lie.

    Args:
        live: the tensors; they are changed in place by training.
        decay: weight of the past. After n updates it is at most (1 + n) / (10 + n), so that a short run is not
            averaged with its random start.
    """

    def __init__(self, live: Sequence[Tensor], decay: float):
        self._live, self._decay, self.updates = [value.detach() for value in live], decay, 0
        self._average = [value.clone() for value in self._live]

    def update(self) -> None:
        """Take in the tensors as they are now."""
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._average, self._live, 1 - decay)

    def swap(self) -> None:
        """Exchange the average and the tensors; a second call undoes it to the last bit."""
        for average, live in zip(self._average, self._live, strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)

    def restore(self, updates: int) -> None:
        """Take the tensors as they are now for the average after `updates`."""
        self.updates = updates
        for average, live in zip(self._average, self._live, strict=True):
            average.copy_(live)
