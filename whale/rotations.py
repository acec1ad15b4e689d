"""Rotation vectors and matrices, both ways. NumPy, float64."""

import numpy as np


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
