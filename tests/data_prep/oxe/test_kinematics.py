"""The Panda's forward kinematics against a product of exponentials, known poses and what turning a joint must do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from whale.data_prep.oxe.kinematics import forward

TCP_M = 0.1034
READY = np.array([0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4])
# The arm stretched out upwards (all joints 0), by its drawing: direction of each axis and a point on it, in the base.
AXES = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 1], [0, -1, 0], [0, 0, 1], [0, -1, 0], [0, 0, -1]])
POINTS = np.array([[0, 0, 0], [0, 0, 0.333], [0, 0, 0], [0.0825, 0, 0.649], [0, 0, 0], [0, 0, 1.033], [0.088, 0, 0]])
HOME = np.eye(4)
HOME[:3, :3] = Rotation.from_euler("x", np.pi).as_matrix() @ Rotation.from_euler("z", -np.pi / 4).as_matrix()
HOME[:3, 3] = [0.088, 0, 1.033 - 0.107 - TCP_M]

joints = st.lists(st.floats(-2.9, 2.9), min_size=7, max_size=7).map(np.array)


def product_of_exponentials(angles: np.ndarray) -> np.ndarray:
    """Brockett's formula: a screw a joint, in the frame of the base; the matrix exponential is SciPy's."""
    pose = np.eye(4)
    for angle, axis, point in zip(angles, AXES, POINTS, strict=True):
        twist = np.zeros((4, 4))
        twist[:3, :3] = np.cross(np.eye(3), axis)
        twist[:3, 3] = -np.cross(axis, point)
        pose = pose @ expm(twist * angle)
    return pose @ HOME


@given(joints)
def test_equals_the_product_of_exponentials(angles):
    position, rotation = forward(angles[None], "panda", TCP_M)
    pose = product_of_exponentials(angles)
    assert np.allclose(position[0], pose[:3, 3], atol=1e-12) and np.allclose(rotation[0], pose[:3, :3], atol=1e-12)


def test_the_ready_pose_is_the_one_that_franka_gives():
    position, rotation = forward(READY[None], "panda", TCP_M)
    assert np.allclose(position[0], [0.306891, 0, 0.486882], atol=1e-6)  # the pose that its control examples start at
    assert np.allclose(rotation[0], np.diag([1, -1, -1]), atol=1e-12)  # fingers point down, hand along x
    flange, _ = forward(READY[None], "panda", 0.0)
    assert np.allclose(flange[0] - position[0], [0, 0, TCP_M])


@given(joints, st.floats(-3, 3))
def test_the_first_joint_turns_the_world_and_the_last_turns_the_hand(angles, turn):
    moved = np.stack([angles, angles + turn * np.eye(7)[0], angles + turn * np.eye(7)[6]])
    position, rotation = forward(moved, "panda", TCP_M)
    about_z = Rotation.from_rotvec([0, 0, turn]).as_matrix()
    assert np.allclose(position[1], about_z @ position[0]) and np.allclose(rotation[1], about_z @ rotation[0])
    assert np.allclose(position[2], position[0]) and np.allclose(rotation[2], rotation[0] @ about_z)
    assert np.linalg.norm(position[0] - [0, 0, 0.333]) < 0.855 + 0.107 + TCP_M  # its reach, from the shoulder


def test_another_number_of_joints_is_told():
    with pytest.raises(ValueError, match="has 7 joints, 6 are given"):
        forward(np.zeros((2, 6)), "panda", TCP_M)
