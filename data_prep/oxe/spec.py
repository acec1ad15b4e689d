"""What must be known of a dataset to make canonical clips of it: one typed record a dataset."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from whale.actions import ActionStatus
from whale.clips.clip import ActionType

Steps = dict[str, Any]
"""The steps of an episode as RLDS stores them: arrays with leading [T], nested by feature name."""

Transform = Callable[[Steps], tuple[np.ndarray, np.ndarray]]
"""Steps to canonical actions float32 [T, 7] and whether each step's action is known, bool [T]."""


@dataclass(frozen=True)
class DatasetSpec:
    """How to read one dataset. A fact that is a claim of somebody else's loader is named as such in `notes`."""

    name: str
    """The dataset's name in Open X-Embodiment."""
    cameras: dict[str, str]
    """Observation key of each camera to its view, `external` or `wrist`."""
    control_period_sec: float
    proprio_key: str | None
    """Observation key of the proprioceptive vector; None where there is none."""
    action_type: ActionType
    action_status: tuple[ActionStatus, ...]
    transform: Transform
    has_rewards: bool
    """Whether `reward` means something in this dataset; where not, clips carry none."""
    source_keys: tuple[str, ...]
    """Keys of `episode_metadata` that name the recording an episode was cut from: the unit of the split."""
    episode_keys: tuple[str, ...]
    """Keys of `episode_metadata` that together name the episode."""
    success_key: str | None
    """Key of `episode_metadata` with the success label; None where there is none."""
    licence: str
    notes: tuple[str, ...]
    """What was decided and why, and where each fact comes from."""
