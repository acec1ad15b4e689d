"""What must be known of a dataset to make canonical clips of it: one typed record a dataset, and no code.

A user's own dataset is described by the same record, in YAML. `transforms.py` reads episodes by it.
"""

from enum import Enum
from typing import Annotated, Literal

from pydantic import Field

from whale.actions import ActionStatus
from whale.clips.clip import ActionType
from whale.config import configclass


class Motion(str, Enum):
    """Where the motion of a step comes from."""

    DELTA = "delta"  # recorded as differences: used as commanded
    TARGET = "target"  # recorded as absolute poses to go to: the difference to the pose of the same step
    PATH = "path"  # absolute poses to go to, and no pose to compare with: the difference to the target before
    VELOCITY = "velocity"  # recorded per second: times the control period
    REACHED = "reached"  # not taken from the action: the difference of the poses of this step and the next


class Rotation(str, Enum):
    """How three numbers, or four, say a rotation."""

    EULER = "euler"  # roll, pitch, yaw (rad) about the fixed x, y, z axes, in that order
    EULER_ZYX = "euler_zyx"  # yaw, pitch, roll (rad): the same rotation, its numbers the other way round
    EULER_ZXY = "euler_zxy"  # angles (rad) about the fixed z, x, y axes, in that order
    ROTVEC = "rotvec"  # axis times angle (rad)
    QUAT_XYZW = "quat_xyzw"
    QUAT_WXYZ = "quat_wxyz"
    YAW = "yaw"  # one number (rad) about the fixed z axis


class Gripper(str, Enum):
    """How one number says the gripper; canonical is absolute, 0 closed to 1 open."""

    OPEN = "open"  # 1 = open
    CLOSED = "closed"  # 1 = closed
    SIGNED_OPEN = "signed_open"  # -1 closed to +1 open
    SIGNED_CLOSED = "signed_closed"  # -1 open to +1 closed
    RELATIVE_CLOSED = "relative_closed"  # +1 closes, -1 opens, 0 leaves it: made absolute along the episode
    WIDTH = "width"  # an opening, 0 closed to `gripper_range` open


class Frame(str, Enum):
    """The axes that motion is told in."""

    BASE = "base"
    TOOL = "tool"
    UNKNOWN = "unknown"  # not published: read as base; the audit compares it with proprioception


@configclass
class Part:
    """Some columns of one feature."""

    key: str
    """Path of the feature in a step, such as `action` or `observation/state`; a name may itself contain slashes."""
    first: int = 0
    """The first column; a negative one counts from the end, and takes all to it."""
    size: int | None = None
    """How many columns; null takes all from `first` on."""


@configclass
class PoseSpec:
    """Where the pose of the end effector is to be read."""

    position: Part | None = None
    """x, y, z in the frame of the base; x and y alone of what moves in a plane."""
    rotation: Part | None = None
    """Its orientation; null where it is not recorded, or not reliably."""
    rotation_form: Rotation = Rotation.EULER
    """How `rotation` says it."""
    joints: Part | None = None
    """Joint positions (rad): the pose follows by the kinematics of `arm`."""
    arm: Literal["panda"] | None = None
    """The arm that `joints` are of."""
    tcp_m: float = 0.1034
    """Metres from the flange of `arm` to the tool centre point; the Franka Hand's by default."""
    metres: float = 1.0
    """Metres in a unit of `position`."""
    radians: float = 1.0
    """Radians in a unit of `rotation`."""
    turned: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Rotation vector (rad), in the axes of the base, that orientations were turned by before they were recorded."""


@configclass
class ActionSpec:
    """How actions are recorded."""

    motion: Motion = Motion.DELTA
    """Where the motion of a step comes from."""
    frame: Frame = Frame.UNKNOWN
    """The axes of recorded deltas and velocities. With `reached`, those to tell the motion in: `tool` where the base of
    the poses means nothing, as with a camera that drives or is carried about."""
    position: Part | None = None
    """Translation; null where none is recorded."""
    rotation: Part | None = None
    """Rotation; null where none is recorded. Of velocities, the angular one, as a `rotvec`."""
    rotation_form: Rotation = Rotation.EULER
    """How `rotation` says it."""
    metres: float = 1.0
    """Metres in a unit of `position`."""
    radians: float = 1.0
    """Radians in a unit of `rotation`."""
    gripper: Part | None = None
    """The gripper; null where none is recorded."""
    gripper_next: bool = False
    """`gripper` is measured, not commanded: an action is what the next step measures."""
    gripper_rule: Gripper = Gripper.OPEN
    """How `gripper` says it."""
    gripper_range: float = 1.0
    """What `gripper` reads when fully open, for the rule `width`."""
    joints: Part | None = None
    """Commanded joints (rad), for `action_type: joint`: six at most, told as differences in the first six slots."""
    absent: Literal["fixed", "unknown"] = "fixed"
    """What the dimensions are that are not recorded: known not to move, or not known."""


@configclass
class DatasetSpec:
    """How to read one dataset. A fact that is a claim of somebody else's loader is named as such in `sources`."""

    name: str
    """The dataset's name in Open X-Embodiment."""
    cameras: dict[str, Literal["external", "wrist", "ego"]]
    """Observation key of each camera to its view."""
    control_period_sec: Annotated[float, Field(gt=0)]
    """Time between two steps."""
    action: ActionSpec
    """How actions are recorded."""
    pose: PoseSpec = PoseSpec()
    """Where the pose of the end effector is to be read."""
    proprio: tuple[Part, ...] = ()
    """The proprioceptive vector, joined from these parts; empty where there is none."""
    versions: tuple[str, ...] = ()
    """Versions that these facts hold for; empty where any."""
    bgr: tuple[str, ...] = ()
    """Cameras whose channels are stored as blue, green, red: they are swapped back."""
    action_type: ActionType = ActionType.EEF_DELTA
    """What the seven action slots hold."""
    instruction: str | None = "language_instruction"
    """Path of the instruction in a step (text, or code points padded with zeros); null where there is none."""
    has_rewards: bool = False
    """Whether `reward` means something in this dataset; where not, clips carry none."""
    success: str | None = None
    """Path in the metadata, or in a step (then its last value), of the success label; null where there is none."""
    success_text: str | None = None
    """The label is text, and a success where it contains this."""
    only_successes: bool = False
    """Leave out episodes whose success label is false."""
    drop_first: Annotated[int, Field(ge=0)] = 0
    """Leading steps to leave out."""
    source_keys: tuple[str, ...] = ()
    """Metadata that names the recording an episode was cut from: the unit of the split. Empty: each its own."""
    episode_keys: tuple[str, ...] = ()
    """Metadata that together names the episode. Empty: `split[index]`."""
    embodiment: str = ""
    """Robot and gripper."""
    licence: str = ""
    """Licence of the data."""
    unusable: str | None = None
    """Why its actions cannot be made canonical: conversion is refused with this reason."""
    sources: tuple[str, ...] = ()
    """Where each fact comes from, and what was decided and why."""

    def __post_init__(self) -> None:
        """What is named must be there: else channels would stay swapped, and arms would seem not to move."""
        action, joints = self.action, self.pose.joints
        if unknown := sorted(set(self.bgr) - set(self.cameras)):
            raise ValueError(f"bgr names {', '.join(unknown)}: not among the cameras")
        if self.action_type is not ActionType.JOINT:
            if action.joints is not None:
                raise ValueError("action.joints are of no use unless action_type is joint")
            if joints is not None and self.pose.arm is None:
                raise ValueError("pose.joints lead to a pose by the kinematics of pose.arm, which is missing")
        elif joints is None and action.motion in (Motion.REACHED, Motion.TARGET):
            raise ValueError(f"the motion {action.motion.value} of joints needs pose.joints")
        elif action.joints is None and action.motion is not Motion.REACHED:
            raise ValueError(f"the motion {action.motion.value} of joints needs action.joints")

    @property
    def action_status(self) -> tuple[ActionStatus, ...]:
        """Status of each canonical dimension, as it follows from what is recorded."""
        from whale.data_prep.oxe.transforms import status_of

        return status_of(self)
