"""What sessions are made of: the models that can imagine, and the recorded episodes to start from."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from whale.calibration import Calibration, calibration_for
from whale.errors import UserError
from whale.models.dataset_card import DatasetCard, describe_actions
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
        UserError: no episode is long enough, the clips are tokens, or a model was made for other frames or actions.
    """

    def __init__(self, config: PlayConfig):
        self.config = config
        self.starts = RecordedStarts(config.clips, config.split, config.context_frames + 1, config.max_episodes)
        first = next(iter(self.starts.episodes.values()))
        self.dataset, self.control_period_sec = first.info.dataset, first.info.control_period_sec
        words = describe_actions(first.info.action_type.value, first.info.action_status)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.models = {name: WorldModel.from_pretrained(source).to(device) for name, source in config.models.items()}
        size_px = self.recording(0).frames.shape[1]
        for name, model in self.models.items():
            self._check(name, model, size_px, words)
        self.gauges = {name: self._gauge(name) for name in self.models}

    def _check(self, name: str, model: WorldModel, size_px: int, words: str) -> None:
        own = model.config.tokenizer.image_px
        if own != size_px:
            raise UserError(
                f"the model {name!r} takes frames of {own} px, {self.config.clips} has {size_px} px",
                f"name clips converted with size_px={own}, or another model",
            )
        if self.dataset not in model.config.datasets:
            raise UserError(
                f"the model {name!r} was not trained on {self.dataset!r}, only on {sorted(model.config.datasets)}",
                "name clips of one of these, or adapt the model with `whale finetune world_model`",
            )
        if (known := self.card(name).actions) != words:
            raise UserError(
                f"{self.config.clips} holds {words}, the model {name!r} knows {known}",
                "name clips that were converted as the model's data was, or another model",
            )

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
