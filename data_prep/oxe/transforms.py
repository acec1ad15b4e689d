"""From each dataset's own actions to the canonical action; every decision with its reason."""

import numpy as np

from whale.data_prep.oxe.rotations import matrix_from_euler, rotvec_from_matrix
from whale.data_prep.oxe.spec import Steps


def tabletop(steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """Recorded canonically. The last step of an episode carries a padding action: it is not known."""
    return np.asarray(steps["action"], np.float32), ~np.asarray(steps["is_last"], bool)


def bridge(steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """BridgeData: motion that was reached, gripper that was commanded.

    Motion is taken from consecutive states, not from the recorded command. The command lags (a pose is reached over
    two periods), and a world model has to learn what the frame shows. It also turns the all-zero command that opens
    every episode into what it is, an arm at rest, so no step has to be dropped. A state holds position (m) and Euler
    angles; a difference of Euler angles is no rotation, so the rotation vector is that of R[t+1] R[t]^T, in the frame
    of the base like the position. The last recorded step has no next state: its action is not known.

    The gripper is absolute with 1 = open. A few values lie between 0 and 1: they stay as they are, clipped to [0, 1].
    Rounding them by looking ahead, as some loaders do, would let an action know the future.
    """
    state = np.asarray(steps["observation"]["state"], np.float64)
    rotation = matrix_from_euler(state[:, 3:6])
    actions = np.zeros((len(state), 7), np.float64)
    actions[:-1, :3] = state[1:, :3] - state[:-1, :3]
    actions[:-1, 3:6] = rotvec_from_matrix(rotation[1:] @ np.swapaxes(rotation[:-1], -1, -2))
    actions[:, 6] = np.clip(np.asarray(steps["action"])[:, 6], 0.0, 1.0)
    return actions.astype(np.float32), np.arange(len(state)) < len(state) - 1
