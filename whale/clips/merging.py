"""Training on merged actions: frames are dropped, and the actions between two kept frames become one.

Retracing (`whale/uncertainty.py`) asks a model what an action does that stands for several; a model that was trained on
such actions knows them. Which clips, and which of their frames, follows from the seed and the position alone.
"""

import numpy as np

from whale.actions import ActionStatus, merge
from whale.clips.clip import ActionType
from whale.clips.mixture import Mixture
from whale.clips.reader import ClipReader
from whale.clips.shuffle import key_of
from whale.clips.window import Windows
from whale.config import configclass

_KNOWN = 3
"""Column of `Windows.flags`."""


@configclass
class MergeConfig:
    """How much of the training is on merged actions (our choice of how; `docs/method.md`, section 3)."""

    share: float = 0.0
    """Share of the train clips in which frames are dropped; 0 trains on recorded steps alone."""
    most: int = 1
    """Frames dropped at one place at most: retracing that goes back by `most` frames asks for it."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"share {self.share} must be from 0 to 1")
        if self.most < 1:
            raise ValueError(f"most {self.most} must be at least 1; share: 0 drops nothing")


def merge_axes(reader: ClipReader) -> str | None:
    """The axes in which a dataset's actions are merged, `base` or `tool`; None where merging is not defined."""
    info = reader.read(0, with_frames=False).info
    defined = info.action_type == ActionType.EEF_DELTA and ActionStatus.UNKNOWN not in info.action_status
    return info.action_frame if defined else None


class Merging:
    """Windows of the clips that are chosen for it."""

    def __init__(self, config: MergeConfig, mixture: Mixture):
        self.config, self.mixture = config, mixture

    def chosen(self, positions: np.ndarray) -> np.ndarray:
        """Whether frames are dropped at these positions, bool [N]."""
        return (key_of(self.mixture.seed, 4, positions.astype(np.uint64)) >> 11) * 2.0**-53 < self.config.share

    def kept_steps(self, positions: np.ndarray, frames: int) -> np.ndarray:
        """Steps after its first that a chosen window keeps, int64 [N, frames].

        After every kept frame a coin says whether any are dropped; if so, from 1 to `most`, all equally often. So half
        of the steps stay as they were recorded, and contexts mix both.
        """
        places = np.arange(frames - 1, dtype=np.uint64)
        keys = key_of(self.mixture.seed, 5, positions.astype(np.uint64)[:, None], places[None])
        steps = 1 + np.where(keys & 1, 1 + (keys >> 1) % self.config.most, 0).astype(np.int64)
        return np.pad(steps.cumsum(1), ((0, 0), (1, 0)))

    def fill(
        self, windows: Windows, reader: ClipReader, axes: str, slots: np.ndarray, ks: np.ndarray, positions: np.ndarray
    ) -> None:
        """Fill the windows `slots` with kept frames of clips `ks`, drawn at `positions` (int arrays [N], N > 0).

        A clip that is long enough gives as many frames as without dropping; of a shorter one, the last frame is kept.
        Raises what `ClipReader.fill` raises.
        """
        length, body, rows = windows.actions.shape[1], windows.body, np.arange(len(ks))[:, None]
        kept = self.kept_steps(positions, length)
        starts = self.mixture.offset(positions, np.maximum(1, reader.num_frames[ks].astype(np.int64) - kept[:, -1]))
        span = min(int(kept.max()) + 1, int(reader.num_frames[ks].max()))
        room = None if body is None else np.empty((len(ks), span, *body.shape[2:]), body.dtype)
        read = Windows.zeros(starts, span, room)
        reader.fill(read, rows[:, 0], ks)
        last = read.num_steps[:, None] - 1
        num_steps = np.minimum(length, (kept < last).sum(1) + 1)
        kept = np.minimum(kept, last)
        parts = np.diff(kept, append=kept[:, -1:] + 1)
        windows.rows[slots], windows.starts[slots], windows.num_steps[slots] = read.rows, starts, num_steps
        windows.merged[slots] = parts > 1
        actions, flags = _joined(read, kept, parts, axes)
        values = [(windows.actions, actions), (windows.flags, flags), (windows.rewards, read.rewards[rows, kept])]
        if body is not None and read.body is not None:
            values.append((body, read.body[rows, kept]))
        for whole, part in values:
            part[np.arange(length) >= num_steps[:, None]] = 0
            whole[slots] = part


def _joined(read: Windows, kept: np.ndarray, parts: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Actions [N, T, 7] and flags [N, T, 4] of kept steps [N, T], each action of the next `parts` steps [N, T].

    Fixed dimensions are the identity. An action is known where all of its parts are.
    """
    rows = np.arange(len(kept))[:, None]
    actions, flags = read.actions[rows, kept], read.flags[rows, kept]
    for count in range(2, int(parts.max()) + 1):
        row, slot = np.nonzero(parts == count)
        those = row[:, None], kept[row, slot][:, None] + np.arange(count)
        fixed = read.rows["action_status"][row] == ActionStatus.FIXED
        free = [np.where(fixed, np.float32(0), part) for part in read.actions[those].swapaxes(0, 1)]
        actions[row, slot] = merge(free, axes)
        flags[row, slot, _KNOWN] = read.flags[those][..., _KNOWN].all(1)
    return actions, flags
