"""The canonical action: one 7-vector for every end-effector dataset, with a status per dimension.

`[dx, dy, dz (m), rx, ry, rz (rotation vector, rad), gripper (absolute, 1 = open)]`. What a dataset does not have is
never a silent zero: each dimension is actuated, fixed (known not to move) or unknown (masked in every loss).
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

ACTION_DIM = 7
ACTION_NAMES = ("dx", "dy", "dz", "rx", "ry", "rz", "gripper")


class ActionStatus(IntEnum):
    """What is known about one action dimension of a dataset."""

    UNKNOWN = 0
    FIXED = 1
    ACTUATED = 2


@dataclass(frozen=True)
class ActionScale:
    """Quantile scaling of actions to about [-1, 1], per dimension, without clipping.

    A dimension whose quantiles coincide (a fixed joint) keeps its physical value: its span is 1, so that noise in a
    nearly constant dimension is not blown up.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def scale(self, actions: np.ndarray) -> np.ndarray:
        """Physical units to model units, float32, any leading shape."""
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        flat = high - low < 1e-6
        span = np.where(flat, 2.0, high - low)
        centre = np.where(flat, 0.0, (high + low) / 2)
        return ((actions - centre) / (span / 2)).astype(np.float32)
