"""The canonical action: one 7-vector for every end-effector dataset, with a status per dimension.

`[dx, dy, dz (m), rx, ry, rz (rotation vector, rad), gripper (absolute, 1 = open)]`. What a dataset does not have is
never a silent zero: each dimension is actuated, fixed (known not to move) or unknown (masked in every loss).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from whale.rotations import matrix_from_rotvec, rotvec_from_matrix

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


Motion = tuple[np.ndarray, np.ndarray]
"""Translations [..., 3] (m) and rotation matrices [..., 3, 3]: a motion, or a pose seen from where one started.

Motions told in the tool's axes are elements of SE(3). Told in the base's, the translation moves the tool whatever its
orientation is, and the rotation turns it about its own origin: so datasets record them, and so they are composed.
"""


def motions(actions: np.ndarray) -> Motion:
    """The motions of canonical actions [..., 7], float64."""
    values = np.asarray(actions, np.float64)
    return values[..., :3], matrix_from_rotvec(values[..., 3:6])


def as_vectors(motion: Motion) -> np.ndarray:
    """Motions as float64 [..., 6]: translation and rotation vector."""
    return np.concatenate([motion[0], rotvec_from_matrix(motion[1])], -1)


def compose(first: Motion, then: Motion, frame: str) -> Motion:
    """The motion that does what two do, one after the other, both told in the axes of `frame`: `base` or `tool`."""
    if frame == "tool":
        return first[0] + np.einsum("...ij,...j->...i", first[1], then[0]), first[1] @ then[1]
    return first[0] + then[0], then[1] @ first[1]


def invert(motion: Motion, frame: str) -> Motion:
    """The motion that undoes one."""
    back = np.swapaxes(motion[1], -1, -2)
    return (-np.einsum("...ij,...j->...i", back, motion[0]) if frame == "tool" else -motion[0]), back


def accumulate(actions: np.ndarray, frame: str, start: Motion | None = None) -> Motion:
    """Poses along an episode, [T + 1, 3] (m) and [T + 1, 3, 3]: `start` (null: the origin), then after each action.

    A pose is told in the frame of the base; with `tool`, the actions are in the axes of the tool on its way.
    """
    shift, turn = motions(actions)
    poses: list[Motion] = [(np.zeros(3), np.eye(3)) if start is None else start]
    for t in range(len(shift)):
        poses.append(compose(poses[-1], (shift[t], turn[t]), frame))
    return np.stack([pose[0] for pose in poses]), np.stack([pose[1] for pose in poses])


def merge(actions: Sequence[np.ndarray], frame: str) -> np.ndarray:
    """Canonical actions [..., 7] done one after the other, as one each: motions composed, the last gripper; float32."""
    total = motions(actions[0])
    for then in actions[1:]:
        total = compose(total, motions(then), frame)
    return np.concatenate([as_vectors(total), np.asarray(actions[-1])[..., 6:]], -1).astype(np.float32)
