"""What sessions are made of: the models that can imagine, and the recorded episodes to start from."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from whale.calibration import Calibration, calibration_for
from whale.errors import UserError
from whale.models.dataset_card import DatasetCard
from whale.models.world_model import WorldModel
from whale.play.config import PlayConfig
from whale.starts import RecordedStarts
from whale.uncertainty import Retracing, refuse_unmergeable


@dataclass(frozen=True)
class Recording:
    """One recorded episode of T frames, each but the last with a known action."""

    name: str
    instruction: str | None
    frames: np.ndarray
    """uint8 [T, H, W, 3]."""
    actions: np.ndarray
    """float32 [T - 1, 7], physical units: `actions[t]` leads to frame t + 1."""
    rewards: np.ndarray | None
    """float32 [T - 1], of the actions."""


class Gauge(NamedTuple):
    """How a model's uncertainty is estimated and read."""

    retracing: Retracing | None
    calibration: Calibration | None
    hint: str
    """What the user should know of it."""


class Catalogue:
    """Models and episodes that fit each other.

    Raises:
        UserError: see `RecordedStarts`, and for each model its `inputs`.
    """

    def __init__(self, config: PlayConfig):
        self.config = config
        self.starts = RecordedStarts(config.clips, config.split, config.context_frames + 1, config.max_episodes)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.models = {name: WorldModel.from_pretrained(source).to(device) for name, source in config.models.items()}
        for name, model in self.models.items():
            try:
                inputs = self.starts.inputs(model)
            except UserError as error:
                raise UserError(f"models.{name}: {error.args[0]}", error.args[1]) from None
        self.dataset, self.control_period_sec = inputs.dataset, inputs.control_period_sec
        self.gauges = {name: self._gauge(name) for name in self.models}

    def card(self, name: str) -> DatasetCard:
        """What a model knows of the dataset."""
        return self.models[name].config.datasets[self.dataset]

    def _gauge(self, name: str) -> Gauge:
        retracing = self.config.retracing
        if retracing is None:
            return Gauge(None, None, "Uncertainty is switched off: `retracing` is null in the configuration.")
        try:
            refuse_unmergeable(self.card(name))
        except UserError as error:
            return Gauge(None, None, f"No uncertainty: {error.args[0]}.")
        if (needed := max(retracing.steps) + 1) > self.config.context_frames:
            return Gauge(None, None, f"No uncertainty: retracing needs {needed} context frames at least.")
        try:
            found = calibration_for(self.models[name], self.dataset, retracing)
        except UserError as error:
            told = "Raw score, to compare within one model and episode only: {}. To see grey levels, {}."
            return Gauge(retracing, None, told.format(*error.args))
        return Gauge(retracing, found, (
            f"Expected error: root mean square to the true frame, calibrated on {found.episodes} episodes up to step "
            f"{found.horizon}; later, and above {found.error[-1]:.0f} grey levels, it may be larger than is shown."
        ))  # fmt: skip

    def recording(self, episode: int) -> Recording:
        """Episode number `episode` of `starts`, as far as it can be driven.

        Raises:
            UserError: there is none, or its clip is damaged.
        """
        if not 0 <= episode < len(self.starts.names):
            raise UserError(f"there is no episode {episode}", f"choose one of 0 to {len(self.starts.names) - 1}")
        name = self.starts.names[episode]
        clip = self.starts.read(name)
        frames = min(self.starts.episodes[name].known_frames, self.config.context_frames + self.config.max_steps)
        assert clip.frames is not None
        return Recording(
            name=name, instruction=clip.info.instruction, frames=clip.frames[:frames],
            actions=clip.actions[: frames - 1],
            rewards=None if clip.rewards is None else clip.rewards[: frames - 1],
        )  # fmt: skip
