"""Clips cut or padded to windows of fixed length, a batch at a time, as the arrays that training takes."""

from dataclasses import dataclass

import numpy as np

from whale.actions import ACTION_DIM, ActionStatus
from whale.clips.index import INDEX_DTYPE


@dataclass(frozen=True)
class Windows:
    """T steps of each of B clips as they stand in the shards; what lies behind a clip's end is zero.

    They are consecutive, but where frames were dropped and their actions merged (`merging.py`).
    """

    rows: np.ndarray
    """INDEX_DTYPE [B]."""
    starts: np.ndarray
    """int64 [B]: the step of its clip that a window begins with."""
    actions: np.ndarray
    """float32 [B, T, 7], physical units."""
    flags: np.ndarray
    """bool [B, T, 4]: `is_first`, `is_last`, `is_terminal`, `action_known`."""
    rewards: np.ndarray
    """float32 [B, T]; zero where the clip has none."""
    num_steps: np.ndarray
    """int64 [B]: how many of the T steps lie in the clip."""
    merged: np.ndarray
    """bool [B, T]: the action stands for several, and leads past frames that were dropped."""
    body: np.ndarray | None
    """Frames uint8 [B, T, H, W, 3] or tokens uint16 [B, T, S]; None for the numbers alone."""

    @classmethod
    def zeros(cls, starts: np.ndarray, length: int, body: np.ndarray | None) -> "Windows":
        """Windows of `length` steps to be filled; `body` may hold anything."""
        size = len(starts)
        return cls(
            rows=np.zeros(size, INDEX_DTYPE), starts=starts, actions=np.zeros((size, length, ACTION_DIM), np.float32),
            flags=np.zeros((size, length, 4), bool), rewards=np.zeros((size, length), np.float32),
            num_steps=np.zeros(size, np.int64), merged=np.zeros((size, length), bool), body=body,
        )  # fmt: skip


def fill_masks(windows: Windows, out: dict[str, np.ndarray]) -> None:
    """Write what follows from windows, apart from actions and frames, to the arrays of a batch (`ClipLoader.batches`).

    `terminated[t]` says whether the frame after `actions[t]` is terminal: it is known only where that frame is in the
    window. A reward is known where an action was applied.
    """
    rows, flags = windows.rows, windows.flags
    _, is_last, terminal, known = (flags[..., column] for column in range(4))
    valid, has_next = out["valid"], out["terminated_mask"]
    valid[:] = np.arange(valid.shape[1]) < windows.num_steps[:, None]
    has_next[:, :-1], has_next[:, -1] = valid[:, 1:], False
    out["terminated"][:, :-1], out["terminated"][:, -1] = terminal[:, 1:] & has_next[:, :-1], False
    out["action_status"][:] = rows["action_status"]
    out["action_mask"][:] = known[..., None] & (rows["action_status"] == ActionStatus.ACTUATED)[:, None]
    out["rewards"][:] = windows.rewards
    out["reward_mask"][:] = valid & known & ~is_last & (rows["rewards_at"] != 0)[:, None]
    out["merged"][:] = windows.merged
    for name in ("action_type", "control_period_sec"):
        out[name][:] = rows[name]
