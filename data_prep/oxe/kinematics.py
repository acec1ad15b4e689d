"""Forward kinematics: joint positions to the pose of the tool centre point, for the arms that datasets need.

Franka Panda (and Research 3, which has the same lengths): Craig's (modified) Denavit-Hartenberg parameters of Franka's
own documentation, "Robot and interface specifications", a transform a joint and one to the flange. The hand is
mounted turned by -45 degrees about the flange's z axis; its fingertips meet 0.1034 m before the flange (`franka_ros`,
hand.xacro). Orientation is that of the hand, whatever gripper is mounted: only the length to its tip differs.
"""

import numpy as np

PANDA_DH = np.array([
    # a (m), d (m), alpha (rad): x of the previous axis, z of this one, turn about the previous x
    [0.0, 0.333, 0.0],
    [0.0, 0.0, -np.pi / 2],
    [0.0, 0.316, np.pi / 2],
    [0.0825, 0.0, np.pi / 2],
    [-0.0825, 0.384, -np.pi / 2],
    [0.0, 0.0, np.pi / 2],
    [0.088, 0.0, np.pi / 2],
])
PANDA_FLANGE_M = 0.107
PANDA_HAND_TURN_RAD = -np.pi / 4

ARM_JOINTS = {"panda": 7}
"""Arms that are known, with their number of joints."""


def _link(angle: np.ndarray, a: float, d: float, alpha: float) -> np.ndarray:
    """One joint's transform by modified Denavit-Hartenberg parameters, [T, 4, 4] for angles [T]."""
    ct, st, ca, sa = np.cos(angle), np.sin(angle), np.cos(alpha), np.sin(alpha)
    pose = np.zeros((len(angle), 4, 4))
    pose[:, 0, 0], pose[:, 0, 1], pose[:, 0, 3] = ct, -st, a
    pose[:, 1, 0], pose[:, 1, 1], pose[:, 1, 2], pose[:, 1, 3] = st * ca, ct * ca, -sa, -d * sa
    pose[:, 2, 0], pose[:, 2, 1], pose[:, 2, 2], pose[:, 2, 3] = st * sa, ct * sa, ca, d * ca
    pose[:, 3, 3] = 1
    return pose


def forward(joints: np.ndarray, arm: str, tcp_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Joint positions [T, J] (rad) to positions [T, 3] (m) and orientations [T, 3, 3] in the base's frame, float64.

    `tcp_m` is the distance from the flange to the tool centre point.

    Raises:
        ValueError: the arm has another number of joints.
    """
    angles = np.asarray(joints, np.float64)
    if angles.shape[1] != ARM_JOINTS[arm]:
        raise ValueError(f"the {arm} has {ARM_JOINTS[arm]} joints, {angles.shape[1]} are given")
    pose = np.broadcast_to(np.eye(4), (len(angles), 4, 4))
    for joint, (a, d, alpha) in enumerate(PANDA_DH):
        pose = pose @ _link(angles[:, joint], a, d, alpha)
    pose = pose @ _link(np.array([PANDA_HAND_TURN_RAD]), 0.0, PANDA_FLANGE_M + tcp_m, 0.0)
    return pose[:, :3, 3], pose[:, :3, :3]
