"""From each dataset's own actions to the canonical action, by its `DatasetSpec`; every decision with its reason."""

from typing import Any

import numpy as np

from whale.actions import ACTION_DIM, ActionStatus
from whale.clips.clip import ActionType
from whale.data_prep.oxe.rotations import matrix_from
from whale.data_prep.oxe.spec import DatasetSpec, Frame, Gripper, Motion, Part, PoseSpec, Rotation
from whale.rotations import rotvec_from_matrix

Steps = dict[str, Any]
"""The steps of an episode as its source stores them: arrays with leading [T], nested by feature name."""
Vectors = tuple[np.ndarray, np.ndarray]
"""Translation (m) and rotation vector (rad), float64 [T, 3] each."""


def feature_at(steps: Steps, path: str) -> Any:
    """The feature at a path such as `observation/state`; a KeyError names the path.

    Some names contain slashes themselves (`present/xyz`): the longest name that fits is taken.
    """
    value: Any = steps
    rest = path
    while rest:
        names = value if isinstance(value, dict) else {}
        name = max((one for one in names if f"{rest}/".startswith(f"{one}/")), key=len, default=None)
        if name is None:
            raise KeyError(path)
        value, rest = value[name], rest[len(name) + 1 :]
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
    """Positions [T, 3] (m) and orientations [T, 3, 3] of the end effector, in the frame of the base, float64.

    What a plane or a missing orientation leaves open stays at 0 and at no rotation: `status_of` says what moves.
    """
    pose = spec.pose
    if pose.joints is not None:
        from whale.data_prep.oxe.kinematics import forward

        assert pose.arm is not None
        return forward(columns(steps, pose.joints), pose.arm, pose.tcp_m)
    if pose.position is None:
        raise ValueError(f"{spec.name} records no pose")
    position = _in_space(columns(steps, pose.position) * pose.metres)
    if pose.rotation is None:
        return position, np.broadcast_to(np.eye(3), (len(position), 3, 3))
    recorded = matrix_from(columns(steps, pose.rotation) * pose.radians, pose.rotation_form)
    if any(pose.turned):
        recorded = matrix_from(-np.array([pose.turned]), Rotation.ROTVEC) @ recorded
    return position, recorded


def _in_space(values: np.ndarray) -> np.ndarray:
    """[T, 2 or 3] to [T, 3]; a ValueError where there are more."""
    if values.shape[1] > 3:
        raise ValueError(f"{values.shape[1]} columns for a position: set `size` to 3, or 2 in a plane")
    return np.concatenate([values, np.zeros((len(values), 3 - values.shape[1]))], 1)


def proprio_of(steps: Steps, spec: DatasetSpec) -> np.ndarray | None:
    """The proprioceptive vector, float32 [T, P]; None where there is none."""
    if not spec.proprio:
        return None
    return np.concatenate([columns(steps, part) for part in spec.proprio], 1).astype(np.float32)


def success_of(metadata: Steps, steps: Steps, spec: DatasetSpec) -> bool | None:
    """The success label of an episode, None where the dataset has none; a KeyError where this episode lacks it."""
    if spec.success is None:
        return None
    try:
        label = feature_at(metadata, spec.success)
    except KeyError:
        label = np.ravel(feature_at(steps, spec.success))[-1]
    if spec.success_text is None:
        return bool(np.asarray(label).item())
    return spec.success_text in (label.decode() if isinstance(label, bytes) else str(label))


def frame_of(spec: DatasetSpec) -> Frame:
    """The axes that canonical motion is told in: base, unless only the tool's are known or asked for."""
    if spec.action.frame is not Frame.TOOL or spec.action.motion in (Motion.TARGET, Motion.PATH):
        return Frame.BASE
    asked = spec.action.motion is Motion.REACHED
    return Frame.TOOL if asked or not has_pose(spec.pose) else Frame.BASE


def _turned(part: Part | None, form: Rotation) -> tuple[int, ...]:
    """The rotation dimensions that a recorded rotation moves."""
    if part is None:
        return ()
    return (5,) if form is Rotation.YAW else (3, 4, 5)


def status_of(spec: DatasetSpec) -> tuple[ActionStatus, ...]:
    """Status of each canonical dimension, as it follows from what is recorded."""
    action, pose = spec.action, spec.pose
    moved: set[int] = set()
    if spec.action_type is ActionType.JOINT:
        joints = action.joints or pose.joints
        moved |= set(range((joints.size if joints else None) or 6))
    elif action.motion is Motion.REACHED and pose.joints is not None:
        moved |= set(range(6))
    else:
        source = pose if action.motion is Motion.REACHED else action
        if source.position is not None:
            moved |= set(range(source.position.size or 3))
        moved |= set(_turned(source.rotation, source.rotation_form))
    if action.gripper is not None:
        moved.add(6)
    absent = ActionStatus.FIXED if action.absent == "fixed" else ActionStatus.UNKNOWN
    return tuple(ActionStatus.ACTUATED if k in moved else absent for k in range(ACTION_DIM))


def _between(position: np.ndarray, rotation: np.ndarray, then: np.ndarray, then_rotation: np.ndarray) -> Vectors:
    """Motion from poses to other poses in the axes of the base: a difference of Euler angles is no rotation."""
    return then - position, rotvec_from_matrix(then_rotation @ np.swapaxes(rotation, -1, -2))


def _turn(rotation: np.ndarray, vectors: Vectors) -> Vectors:
    shift, turn = (np.einsum("tij,tj->ti", rotation, one) for one in vectors)
    return shift, turn


def _reached(steps: Steps, spec: DatasetSpec) -> Vectors:
    """What a world model has to learn is what the frames show: a command lags behind, a reached pose does not."""
    position, rotation = poses(steps, spec)
    shift, turn = np.zeros_like(position), np.zeros_like(position)
    shift[:-1], turn[:-1] = _between(position[:-1], rotation[:-1], position[1:], rotation[1:])
    return _turn(np.swapaxes(rotation, -1, -2), (shift, turn)) if frame_of(spec) is Frame.TOOL else (shift, turn)


def _from(measured: np.ndarray, targets: np.ndarray, spec: DatasetSpec, stride: int) -> np.ndarray:
    """Where motion to targets [T, ...] starts: at what is measured in steps that are kept, else at the target before.

    What is `stride` steps of one motion then leads from the first of them to the last target: the way by which the arm
    lags behind its target counts once, not in every step.
    """
    kept = (np.arange(len(targets)) - spec.drop_first) % stride == 0
    if spec.action.motion is Motion.PATH:
        kept[:] = False
    before = np.concatenate([targets[:1], targets[:-1]])
    return np.where(kept.reshape(-1, *[1] * (targets.ndim - 1)), measured, before)


def _to_targets(steps: Steps, spec: DatasetSpec, length: int, stride: int) -> Vectors:
    """Motion to absolute targets: from the pose of the same step, or from the target before (`path`)."""
    action = spec.action
    if action.motion is Motion.PATH:
        here, facing = np.zeros((length, 3)), np.broadcast_to(np.eye(3), (length, 3, 3))
    else:
        here, facing = poses(steps, spec)
    there, then_facing = here, facing
    if action.position is not None:
        there = _in_space(columns(steps, action.position) * action.metres)
        here = _from(here, there, spec, stride)
    if action.rotation is not None:
        then_facing = matrix_from(columns(steps, action.rotation) * action.radians, action.rotation_form)
        facing = _from(facing, then_facing, spec, stride)
    return _between(here, facing, there, then_facing)


def _commanded(steps: Steps, spec: DatasetSpec, length: int) -> Vectors:
    """Motion that is recorded as a difference, or per second."""
    action = spec.action
    period = spec.control_period_sec if action.motion is Motion.VELOCITY else 1.0
    shift, turn = np.zeros((length, 3)), np.zeros((length, 3))
    if action.position is not None:
        shift = _in_space(columns(steps, action.position)) * (action.metres * period)
    if action.rotation is not None:
        recorded = columns(steps, action.rotation)
        if action.rotation_form not in (Rotation.QUAT_XYZW, Rotation.QUAT_WXYZ):  # which have no unit
            recorded = recorded * (action.radians * period)
        turn = rotvec_from_matrix(matrix_from(recorded, action.rotation_form))
    if action.frame is Frame.TOOL and has_pose(spec.pose):
        return _turn(poses(steps, spec)[1], (shift, turn))
    return shift, turn


def _motion(steps: Steps, spec: DatasetSpec, length: int, stride: int) -> Vectors:
    """Translation (m) and rotation vector (rad) of every step, float64 [T, 3] each."""
    if spec.action.motion is Motion.REACHED:
        return _reached(steps, spec)
    if spec.action.motion in (Motion.TARGET, Motion.PATH):
        return _to_targets(steps, spec, length, stride)
    return _commanded(steps, spec, length)


def _joint_motion(steps: Steps, spec: DatasetSpec, stride: int) -> np.ndarray:
    """Joint differences (rad) of every step, float64 [T, up to 6].

    Raises:
        ValueError: the arm has more than six joints: seven and a gripper do not fit seven slots.
    """
    action, pose = spec.action, spec.pose
    here = None if pose.joints is None else columns(steps, pose.joints)
    if action.motion is Motion.REACHED:
        assert here is not None
        moved = np.concatenate([np.diff(here, axis=0), np.zeros((1, here.shape[1]))])
    else:
        assert action.joints is not None
        moved = columns(steps, action.joints)
        if action.motion is Motion.TARGET:
            assert here is not None
            moved = moved - _from(here, moved, spec, stride)
    if moved.shape[1] > 6:
        raise ValueError(f"{spec.name} moves {moved.shape[1]} joints: six and the gripper are all that an action holds")
    return moved


def _gripper(steps: Steps, spec: DatasetSpec) -> np.ndarray:
    """Absolute gripper command, 0 closed to 1 open, float64 [T]; a ValueError where there is more than one number."""
    assert spec.action.gripper is not None
    value, rule = columns(steps, spec.action.gripper), spec.action.gripper_rule
    if value.shape[1] != 1:
        raise ValueError(f"{spec.action.gripper.key} gives {value.shape[1]} columns for the gripper: set `size` to 1")
    value = value[:, 0]
    if spec.action.gripper_next:
        value = np.concatenate([value[1:], value[-1:]])
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
    without any keeps an open gripper. This is the one place where an action knows of a later step.
    """
    command = np.where(closing > 0.1, 0.0, np.where(closing < -0.1, 1.0, np.nan))
    given = np.flatnonzero(~np.isnan(command))
    if not len(given):
        return np.ones(len(command))
    last = np.searchsorted(given, np.arange(len(command)), side="right") - 1
    return np.where(last < 0, 1 - command[given[0]], command[given[np.maximum(last, 0)]])


def canonical_actions(steps: Steps, spec: DatasetSpec, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Canonical actions float32 [T, 7], and whether each step's action is known, bool [T].

    Every `stride` steps, counted behind `drop_first`, are going to be one (resample.py).

    The last step has no next frame, so its action means nothing, whatever is recorded there; the first of a `path` has
    no target before it.

    Raises:
        KeyError: a feature that the spec names is not among the steps.
        ValueError: it has too few columns, or the dataset is `unusable`.
    """
    if spec.unusable is not None:
        raise ValueError(f"{spec.name} cannot be converted: {spec.unusable}")
    length = len(steps["is_first"])
    actions = np.zeros((length, ACTION_DIM), np.float64)
    if spec.action_type in (ActionType.EEF_DELTA, ActionType.PLANAR):
        actions[:, :3], actions[:, 3:6] = _motion(steps, spec, length, stride)
    elif spec.action_type is ActionType.JOINT:
        moved = _joint_motion(steps, spec, stride)
        actions[:, : moved.shape[1]] = moved
    else:
        raise ValueError(f"{spec.name}: actions of type {spec.action_type.value} are not made")
    if spec.action.gripper is not None:
        actions[:, 6] = _gripper(steps, spec)
    known = np.arange(length) < length - 1
    if spec.action.motion is Motion.PATH:
        known[0] = False
    return actions.astype(np.float32), known
