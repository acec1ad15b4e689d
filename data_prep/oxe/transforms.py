"""From each dataset's own actions to the canonical action, by its `DatasetSpec`; every decision with its reason."""

from typing import Any

import numpy as np

from whale.actions import ACTION_DIM, ActionStatus
from whale.clips.clip import ActionType
from whale.data_prep.oxe.rotations import matrix_from, rotvec_from_matrix
from whale.data_prep.oxe.spec import DatasetSpec, Frame, Gripper, Motion, Part, PoseSpec

Steps = dict[str, Any]
"""The steps of an episode as its source stores them: arrays with leading [T], nested by feature name."""


def feature_at(steps: Steps, path: str) -> Any:
    """The feature at a path such as `observation/state`; a KeyError names the path."""
    value: Any = steps
    for name in path.split("/"):
        if not isinstance(value, dict) or name not in value:
            raise KeyError(path)
        value = value[name]
    return value


def columns(steps: Steps, part: Part) -> np.ndarray:
    """The columns that a part names, float64 [T, size]; a ValueError when the feature has fewer."""
    values = np.asarray(feature_at(steps, part.key), np.float64)
    values = values.reshape(len(values), -1)
    found = values[:, part.first : None if part.size is None else part.first + part.size]
    if found.shape[1] == 0 or part.size not in (None, found.shape[1]):
        raise ValueError(f"{part.key} has {values.shape[1]} columns, needed are {part.first} to "
                         f"{part.first + (part.size or 1) - 1}")
    return found


def has_pose(pose: PoseSpec) -> bool:
    """Whether position and orientation of the end effector can be read."""
    return pose.joints is not None or (pose.position is not None and pose.rotation is not None)


def poses(steps: Steps, spec: DatasetSpec) -> tuple[np.ndarray, np.ndarray]:
    """Positions [T, 3] (m) and orientations [T, 3, 3] of the end effector, in the frame of the base, float64."""
    pose = spec.pose
    if pose.joints is not None:
        from whale.data_prep.oxe.kinematics import forward

        assert pose.arm is not None
        return forward(columns(steps, pose.joints), pose.arm, pose.tcp_m)
    if pose.position is None or pose.rotation is None:
        raise ValueError(f"{spec.name} records no pose")
    return (columns(steps, pose.position) * pose.metres,
            matrix_from(columns(steps, pose.rotation), pose.rotation_form))


def proprio_of(steps: Steps, spec: DatasetSpec) -> np.ndarray | None:
    """The proprioceptive vector, float32 [T, P]; None where there is none."""
    if not spec.proprio:
        return None
    return np.concatenate([columns(steps, part) for part in spec.proprio], 1).astype(np.float32)


def frame_of(spec: DatasetSpec) -> Frame:
    """The axes that canonical motion is told in: base, unless only the tool's are known."""
    tool = spec.action.frame is Frame.TOOL and spec.action.motion is not Motion.REACHED
    return Frame.TOOL if tool and not has_pose(spec.pose) else Frame.BASE


def status_of(spec: DatasetSpec) -> tuple[ActionStatus, ...]:
    """Status of each canonical dimension, as it follows from what is recorded."""
    action = spec.action
    absent = ActionStatus.FIXED if action.absent == "fixed" else ActionStatus.UNKNOWN
    status = [absent] * ACTION_DIM
    if action.motion is Motion.REACHED:
        status[:6] = [ActionStatus.ACTUATED] * 6
    if action.position is not None:
        for k in range(action.position.size or 3):
            status[k] = ActionStatus.ACTUATED
    if action.rotation is not None:
        turned = (5,) if action.rotation_form.value == "yaw" else (3, 4, 5)
        for k in turned:
            status[k] = ActionStatus.ACTUATED
    if action.gripper is not None:
        status[6] = ActionStatus.ACTUATED
    return tuple(status)


def _differences(position: np.ndarray, rotation: np.ndarray, next_position: np.ndarray,
                 next_rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Motion from poses to next poses in the frame of the base: a difference of Euler angles is no rotation."""
    return next_position - position, rotvec_from_matrix(next_rotation @ np.swapaxes(rotation, -1, -2))


def _motion(steps: Steps, spec: DatasetSpec, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Translation (m) and rotation vector (rad) of every step, float64 [T, 3] each."""
    action = spec.action
    if action.motion is Motion.REACHED:
        # What a world model has to learn is what the frame shows: a command lags behind, a reached pose does not.
        position, rotation = poses(steps, spec)
        turn = np.zeros((length, 3))
        shift = np.zeros((length, 3))
        shift[:-1], turn[:-1] = _differences(position[:-1], rotation[:-1], position[1:], rotation[1:])
        return shift, turn
    shift, turn = np.zeros((length, 3)), np.zeros((length, 3))
    if action.position is not None:
        recorded = columns(steps, action.position) * action.metres
        shift[:, : recorded.shape[1]] = recorded
    matrix = np.broadcast_to(np.eye(3), (length, 3, 3))
    if action.rotation is not None:
        matrix = matrix_from(columns(steps, action.rotation) * action.radians, action.rotation_form)
        turn = rotvec_from_matrix(matrix)
    if action.motion is Motion.TARGET:
        position, rotation = poses(steps, spec)
        return _differences(position, rotation, shift, matrix if action.rotation is not None else rotation)
    if action.motion is Motion.VELOCITY:
        shift, turn = shift * spec.control_period_sec, turn * spec.control_period_sec
    if action.frame is Frame.TOOL and has_pose(spec.pose):
        _, rotation = poses(steps, spec)
        shift, turn = (np.einsum("tij,tj->ti", rotation, value) for value in (shift, turn))
    return shift, turn


def _gripper(steps: Steps, spec: DatasetSpec) -> np.ndarray:
    """Absolute gripper command, 0 closed to 1 open, float64 [T]."""
    assert spec.action.gripper is not None
    value, rule = columns(steps, spec.action.gripper)[:, 0], spec.action.gripper_rule
    if rule is Gripper.RELATIVE_CLOSED:
        return _absolute_from_relative(value)
    if rule in (Gripper.SIGNED_OPEN, Gripper.SIGNED_CLOSED):
        value = (value + 1) / 2
    if rule is Gripper.WIDTH:
        value = value / spec.action.gripper_range
    if rule in (Gripper.CLOSED, Gripper.SIGNED_CLOSED):
        value = 1 - value
    # Values in between stay: rounding them by looking ahead, as some loaders do, would let an action know the future.
    return np.clip(value, 0.0, 1.0)


def _absolute_from_relative(closing: np.ndarray) -> np.ndarray:
    """Commands +1 (close) and -1 (open) to the state they lead to.

    Before the first command the gripper is in the state that makes it matter: open before it closes. An episode
    without any keeps an open gripper.
    """
    command = np.where(closing > 0.1, 0.0, np.where(closing < -0.1, 1.0, np.nan))
    given = np.flatnonzero(~np.isnan(command))
    if not len(given):
        return np.ones(len(command))
    last = np.searchsorted(given, np.arange(len(command)), side="right") - 1
    return np.where(last < 0, 1 - command[given[0]], command[given[np.maximum(last, 0)]])


def canonical_actions(steps: Steps, spec: DatasetSpec) -> tuple[np.ndarray, np.ndarray]:
    """Canonical actions float32 [T, 7], and whether each step's action is known, bool [T].

    The last step has no next frame, so its action means nothing, whatever is recorded there.

    Raises:
        KeyError: a feature that the spec names is not among the steps.
        ValueError: it has too few columns.
    """
    length = len(steps["is_first"])
    actions = np.zeros((length, ACTION_DIM), np.float64)
    if spec.action_type in (ActionType.EEF_DELTA, ActionType.PLANAR):
        actions[:, :3], actions[:, 3:6] = _motion(steps, spec, length)
    if spec.action.gripper is not None:
        actions[:, 6] = _gripper(steps, spec)
    return actions.astype(np.float32), np.arange(length) < length - 1
