"""Rotations as data preparation needs them: Euler angles to matrices, matrices to rotation vectors. NumPy, float64."""

import numpy as np

from whale.data_prep.oxe.spec import Rotation


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


def rotvec_from_matrix(matrix: np.ndarray) -> np.ndarray:
    """Matrices [..., 3, 3] to rotation vectors [..., 3] (rad) with an angle in [0, pi].

    Goes through the quaternion's largest component, so that it is exact near 0 and near pi alike.
    """
    m = np.asarray(matrix, np.float64)
    x, y, z = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = np.stack([1 + x + y + z, 1 + x - y - z, 1 - x + y - z, 1 - x - y + z], -1)
    sums = m + np.swapaxes(m, -1, -2)
    turn = np.stack([m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1)
    # Row i is 4 q_i q for the quaternion q = (w, x, y, z); the row of the largest |q_i| is the well-conditioned one.
    rows = np.stack([
        np.concatenate([squares[..., :1], turn], -1),
        np.stack([turn[..., 0], squares[..., 1], sums[..., 0, 1], sums[..., 0, 2]], -1),
        np.stack([turn[..., 1], sums[..., 0, 1], squares[..., 2], sums[..., 1, 2]], -1),
        np.stack([turn[..., 2], sums[..., 0, 2], sums[..., 1, 2], squares[..., 3]], -1),
    ], -2)
    largest = squares.argmax(-1)[..., None, None]
    quaternion = np.take_along_axis(rows, largest, -2)[..., 0, :]
    quaternion = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    quaternion = np.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = np.linalg.norm(quaternion[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, quaternion[..., :1])
    return quaternion[..., 1:] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)


def matrix_from_rotvec(rotvec: np.ndarray) -> np.ndarray:
    """Rotation vectors [..., 3] (rad) to matrices [..., 3, 3], by Rodrigues' formula."""
    vector = np.asarray(rotvec, np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    skew = np.stack([np.stack(row, -1) for row in ([zero, -z, y], [z, zero, -x], [-y, x, zero])], -2)
    small = angle < 1e-8  # sin(a)/a and (1 - cos(a))/a^2 lose nothing to their limits there
    safe = np.where(small, 1.0, angle)
    first, second = np.where(small, 1.0, np.sin(safe) / safe), np.where(small, 0.5, (1 - np.cos(safe)) / safe**2)
    return np.eye(3) + first * skew + second * (skew @ skew)


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
    if form is Rotation.YAW:
        return matrix_from_rotvec(np.concatenate([np.zeros((*values.shape[:-1], 2)), values], -1))
    if form is Rotation.ROTVEC:
        return matrix_from_rotvec(values)
    return matrix_from_quaternion(values if form is Rotation.QUAT_XYZW else np.roll(values, -1, -1))
