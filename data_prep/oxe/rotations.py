"""Rotations as datasets write them down, to matrices. NumPy, float64."""

import numpy as np

from whale.data_prep.oxe.spec import Rotation
from whale.rotations import matrix_from_rotvec


def matrix_from_euler(angles: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw [..., 3] (rad) about the fixed x, y, z axes, in that order, to matrices [..., 3, 3]."""
    roll, pitch, yaw = np.moveaxis(np.asarray(angles, np.float64), -1, 0)
    cr, sr, cp, sp, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def matrix_from_quaternion(xyzw: np.ndarray) -> np.ndarray:
    """Quaternions [..., 4] as x, y, z, w, of any length but zero, to matrices [..., 3, 3]."""
    q = np.asarray(xyzw, np.float64)
    x, y, z, w = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def matrix_from(values: np.ndarray, form: Rotation) -> np.ndarray:
    """Rotations in one of the forms that datasets use, [..., 1, 3 or 4], to matrices [..., 3, 3]."""
    if form is Rotation.EULER:
        return matrix_from_euler(values)
    if form is Rotation.EULER_ZYX:
        return matrix_from_euler(values[..., ::-1])
    if form is Rotation.EULER_ZXY:
        about_z, about_x, about_y = (matrix_from_rotvec(values[..., i : i + 1] * np.eye(3)[axis])
                                     for i, axis in enumerate((2, 0, 1)))
        return about_y @ about_x @ about_z
    if form is Rotation.YAW:
        return matrix_from_rotvec(np.concatenate([np.zeros((*values.shape[:-1], 2)), values], -1))
    if form is Rotation.ROTVEC:
        return matrix_from_rotvec(values)
    return matrix_from_quaternion(values if form is Rotation.QUAT_XYZW else np.roll(values, -1, -1))
