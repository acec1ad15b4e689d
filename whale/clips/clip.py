"""One clip: consecutive steps of one episode, as pixels or as tokens, with everything needed to train and to judge.

Legend: T steps, H x W pixels, S tokens a frame, P proprioceptive values. `actions[t]` is applied after frame t and
`rewards[t]` is received after `actions[t]`; frame t+1 is what came of it. Unknown is a mask, never a zero.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from whale.actions import ACTION_DIM, ActionStatus

FORMAT_VERSION = 2


class ActionType(str, Enum):
    """What the seven action slots hold; only `eef_delta` fills them with canonical end-effector deltas."""

    EEF_DELTA = "eef_delta"
    EEF_ABSOLUTE = "eef_absolute"
    JOINT = "joint"
    PLANAR = "planar"


@dataclass(frozen=True)
class Source:
    """Where a clip came from: the input file and the index of its record in that file."""

    file: str
    record: int


@dataclass(frozen=True)
class ClipInfo:
    """What is constant over a clip; stored as the clip's JSON member."""

    dataset: str
    episode: str
    """Identity of the source episode; the split is decided by the file or recording it was cut from."""
    start: int
    """Index of the clip's first frame in its episode."""
    split: str
    """`train` or `val`."""
    camera: str
    view: str
    """`external` or `wrist`."""
    control_period_sec: float
    action_type: ActionType
    action_status: tuple[ActionStatus, ...]
    """Status of each of the seven action dimensions."""
    instruction: str | None
    success: bool | None
    source: Source
    tokenizer: str | None
    """Fingerprint of the tokenizer that made the tokens; None for pixels."""
    action_frame: str = "base"
    """Frame of the end-effector deltas: `base` (of the robot) or `tool` (of the end effector before the action)."""


@dataclass(frozen=True)
class Clip:
    """A clip in memory. Exactly one of `frames` and `tokens` is present."""

    info: ClipInfo
    frames: np.ndarray | None
    """uint8 [T, H, W, 3]."""
    tokens: np.ndarray | None
    """uint16 [T, S]."""
    actions: np.ndarray
    """float32 [T, 7], canonical physical units."""
    action_known: np.ndarray
    """bool [T]: False where a step has no action (the padding action of an episode's last step)."""
    rewards: np.ndarray | None
    """float32 [T]; None where the dataset has none."""
    proprio: np.ndarray | None
    """float32 [T, P] or None."""
    is_first: np.ndarray
    """bool [T]."""
    is_last: np.ndarray
    """bool [T]."""
    is_terminal: np.ndarray
    """bool [T]: the episode ended here for a reason of the task, so nothing is earned afterwards."""

    def __post_init__(self) -> None:
        """Check shapes and dtypes once, where a clip is made."""
        if (self.frames is None) == (self.tokens is None):
            raise ValueError("a clip holds either frames or tokens")
        steps = self.num_frames
        if self.frames is not None and (self.frames.dtype != np.uint8 or self.frames.shape[3:] != (3,)):
            raise ValueError(f"frames are {self.frames.dtype} {self.frames.shape}, need uint8 [T, H, W, 3]")
        if self.tokens is not None and (self.tokens.dtype != np.uint16 or self.tokens.ndim != 2):
            raise ValueError(f"tokens are {self.tokens.dtype} {self.tokens.shape}, need uint16 [T, S]")
        wanted: dict[str, tuple[type, tuple[int, ...]]]
        wanted = dict.fromkeys(("action_known", "is_first", "is_last", "is_terminal"), (np.bool_, (steps,)))
        wanted |= {"actions": (np.float32, (steps, ACTION_DIM)), "rewards": (np.float32, (steps,))}
        for name, (dtype, shape) in wanted.items():
            value = getattr(self, name)
            if value is not None and (value.dtype != dtype or value.shape != shape):
                raise ValueError(f"{name} are {value.dtype} {value.shape}, need {np.dtype(dtype)} {shape}")
            if value is not None and not np.isfinite(value).all():
                raise ValueError(f"{name} of {self.info.episode} hold a value that is not finite")
        if self.proprio is not None and (self.proprio.dtype != np.float32 or self.proprio.shape[:-1] != (steps,)):
            raise ValueError(f"proprio is {self.proprio.dtype} {self.proprio.shape}, need float32 [{steps}, P]")
        if len(self.info.action_status) != ACTION_DIM:
            raise ValueError(f"action_status has {len(self.info.action_status)} entries, need {ACTION_DIM}")

    @property
    def num_frames(self) -> int:
        """T."""
        first = self.frames if self.frames is not None else self.tokens
        assert first is not None
        return len(first)
