"""Episodes at a lower rate: every k-th frame is kept, and the steps between two of them become one.

Nothing that moved the robot between two kept frames is dropped: its motions are composed, its rewards summed.
"""

import math
from dataclasses import dataclass

import numpy as np

from whale.actions import merge
from whale.clips.clip import ActionType


@dataclass(frozen=True)
class Numbers:
    """The steps of an episode but for their frames, as clips hold them: leading [T], types as in `Clip`."""

    actions: np.ndarray
    action_known: np.ndarray
    rewards: np.ndarray | None
    proprio: np.ndarray | None
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray


def stride_of(control_period_sec: float, target_sec: float | None) -> int:
    """k: how many recorded periods make about one of the target, half up; 1 where the dataset is slower or None."""
    return 1 if target_sec is None else max(1, math.floor(round(target_sec / control_period_sec, 9) + 0.5))


def resample(numbers: Numbers, k: int, frame: str, action_type: ActionType) -> Numbers:
    """Steps 0, k, 2k, ..., each standing for the k from it on; the last for what is left, and its action is not known.

    Deltas are composed in the axes of `frame` (`base` or `tool`), those of joints added; of absolute actions the last
    is what was asked for.
    """
    if k == 1:
        return numbers
    length = len(numbers.actions)
    count = math.ceil(length / k)

    def groups(values: np.ndarray) -> np.ndarray:
        """[T, ...] to [count, k, ...], padded with zeros."""
        padded = np.zeros((count * k, *values.shape[1:]), values.dtype)
        padded[:length] = values
        return padded.reshape(count, k, *values.shape[1:])

    steps = groups(numbers.actions)
    is_delta = action_type in (ActionType.EEF_DELTA, ActionType.PLANAR)
    actions = merge([steps[:, i] for i in range(k)], frame) if is_delta else steps[:, -1].copy()
    if action_type is ActionType.JOINT:  # differences of up to six joints, and the gripper
        actions[:, :6] = steps[..., :6].sum(1)
    known: np.ndarray = np.all(groups(numbers.action_known), 1)
    known[-1] = False  # no kept frame follows
    rewards = None if numbers.rewards is None else groups(numbers.rewards.astype(np.float64)).sum(1).astype(np.float32)
    flags = {name: np.any(groups(getattr(numbers, name)), 1) for name in ("is_first", "is_last", "is_terminal")}
    return Numbers(
        actions=actions, action_known=known, rewards=rewards,
        proprio=None if numbers.proprio is None else numbers.proprio[::k], **flags)
