"""Imagined episodes side by side, in one batched imagination: each begins, is counted and ends alone.

What the environments of `whale.env` step; it does not need Gymnasium.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whale.actions import ACTION_NAMES, ActionStatus
from whale.calibration import Calibration, calibration_for
from whale.clips.clip import ActionType
from whale.config import configclass
from whale.errors import UserError
from whale.models.dataset_card import DatasetCard
from whale.models.world_model import WorldModel
from whale.rollout import Imagination
from whale.sampling import Sampling
from whale.starts import RecordedStarts, Start
from whale.uncertainty import Retracing

RANGE = 1.5
"""How far actions may go, in 1 % and 99 % quantiles of the data: farther off the model has seen next to nothing."""


@configclass
class EnvConfig:
    """Where imagined episodes begin, how they go on, and when they end."""

    clips: Path
    """Folder of pixel clips, of a dataset that the model knows."""
    split: str = "val"
    """Episodes begin as those of this split do."""
    context_frames: int = 8
    """Recorded frames that the model sees first."""
    horizon: int = 50
    """Imagined frames after which an episode is truncated."""
    temperature: float | None = None
    """Draw the tokens of imagined frames, 0 the most likely ones; without it, the expected ones are taken."""
    top_k: int | None = None
    """Draw among the so many most likely tokens of each position only."""
    retracing: Retracing | None = None
    """Estimate the uncertainty of every imagined frame."""
    max_error: float | None = None
    """Truncate an episode when a frame's expected error, root mean square in grey levels, is above this one."""

    def __post_init__(self) -> None:
        """Check what does not fit together."""
        if self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}, and must be at least 1")
        if self.top_k is not None and self.temperature is None:
            raise ValueError("top_k says how to draw tokens: give a temperature too")
        if self.max_error is not None and self.retracing is None:
            raise ValueError("max_error is held against the uncertainty: give retracing too")
        needed = 1 if self.retracing is None else max(self.retracing.steps) + 1
        if self.context_frames < needed:
            raise ValueError(f"context_frames is {self.context_frames}, and must be at least {needed}")


def action_range(card: DatasetCard) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest action of a dataset in physical units, float32 [7] each.

    A motion reaches `RANGE` times its larger quantile in both directions, a gripper from 0 to 1. What is not actuated
    is not read, and may be anything from -1 to 1.
    """
    high = RANGE * np.maximum(np.abs(card.action_low), np.abs(card.action_high)).astype(np.float32)
    high[[status != ActionStatus.ACTUATED for status in card.action_status]] = 1
    low = -high
    if card.action_type == ActionType.EEF_DELTA and card.action_status[6] == ActionStatus.ACTUATED:
        low[6], high[6] = 0, 1
    return low, high


class ImaginedEpisodes:
    """N imagined episodes.

    Args:
        model: the world model, in eval mode.
        config: what to imagine.
        num_episodes: N.

    `running` bool [N] says which have begun and not ended.

    Raises:
        UserError: the model does not know the dataset, its frames are of another size, no episode is long enough, or
            `max_error` is given and the model has no calibration.
    """

    def __init__(self, model: WorldModel, config: EnvConfig, num_episodes: int):
        self.model, self.config = model, config
        self.starts = RecordedStarts(config.clips, config.split, config.context_frames)
        self.dataset = self.starts.reader.manifest.dataset
        if self.dataset not in model.config.datasets:
            raise UserError(
                f"{config.clips} holds {self.dataset!r}; the model knows {sorted(model.config.datasets)}",
                "give clips of one of these, or adapt the model to the new data with `whale finetune world_model`",
            )
        size, found = model.config.tokenizer.image_px, self.starts.read(self.starts.names[0]).frames.shape[1:3]
        if found != (size, size):
            raise UserError(
                f"{config.clips} has frames of {found[0]} x {found[1]} pixels, the model takes {size} x {size}",
                "give clips converted to the model's size",
            )
        self.card = model.config.datasets[self.dataset]
        self.low, self.high = action_range(self.card)
        self._actuated = np.array([status == ActionStatus.ACTUATED for status in self.card.action_status])
        self._calibration = self._find_calibration()
        self._imagination: Imagination | None = None
        self._begun: list[Start | None] = [None] * num_episodes
        self._tokens = np.zeros((num_episodes, model.config.tokenizer.tokens_per_frame), np.int64)
        self._num_steps, self._uncertainty = np.zeros(num_episodes, np.int64), np.zeros(num_episodes)
        self.running = np.zeros(num_episodes, bool)

    def _find_calibration(self) -> Calibration | None:
        """The one that fits; only `max_error` cannot do without."""
        if self.config.retracing is None:
            return None
        try:
            return calibration_for(self.model, self.dataset, self.config.retracing)
        except UserError:
            if self.config.max_error is not None:
                raise
            return None

    def begin(
        self, rows: Sequence[int], generators: Sequence[np.random.Generator], names: Sequence[str | None]
    ) -> None:
        """Begin other episodes in these rows; each is drawn from its generator, unless it is named.

        The generator is read alike in both cases, and decides what is drawn later: one at the same point gives the
        same episode, in any row.

        Raises:
            UserError: there is no recorded episode of that name.
        """
        drawn = [(int(g.integers(len(self.starts.names))), int(g.integers(2**63))) for g in generators]
        seeds = [seed for _, seed in drawn]
        starts = [self.starts.read(name or self.starts.names[i]) for name, (i, _) in zip(names, drawn, strict=True)]
        frames, actions = (np.stack([getattr(start, part) for start in starts]) for part in ("frames", "actions"))
        if len(rows) == len(self._begun):
            config, temperature = self.config, self.config.temperature
            sampling = None if temperature is None else Sampling(temperature, seeds, config.top_k)
            period = self.card.control_period_sec
            self._imagination = Imagination(
                self.model, frames, actions, self.dataset, period, sampling, config.retracing
            )
        else:
            assert self._imagination is not None
            self._imagination.restart(rows, frames, actions, None if self.config.temperature is None else seeds)
        for row, start in zip(rows, starts, strict=True):
            self._begun[row] = start
        self._tokens[rows] = self.model.encode(frames[:, -1])
        self._num_steps[rows], self._uncertainty[rows], self.running[rows] = 0, 0, True

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Imagine the next frame of the running episodes; the others stay over, their actions are not read.

        An episode is terminated where the model holds that more likely than not; it is not drawn, so that the same
        actions give the same episode. It is truncated at the horizon, and where its expected error exceeds `max_error`.

        Args:
            actions: float [N, 7], physical units.

        Returns:
            Reward float32 [N] (0 where none runs), terminated bool [N], truncated bool [N].

        Raises:
            UserError: none has begun, or actions are of another shape, not finite or out of range.
        """
        if self._imagination is None:
            raise UserError("no episode has begun", "call reset first")
        self._step = self._imagination.step(self._checked(actions))
        self._tokens = self._step.tokens.copy()
        self._num_steps[self.running] += 1
        self._error = self._expected_error()
        reward = np.where(self.running, self._step.reward, 0).astype(np.float32)
        terminated = self.running & (self._step.terminated > 0.5)
        truncated = self.running & (self._num_steps >= self.config.horizon)
        if self.config.max_error is not None and self._error is not None:
            truncated |= self.running & (self._error > self.config.max_error)
        self.running &= ~(terminated | truncated)
        return reward, terminated, truncated

    def _expected_error(self) -> np.ndarray | None:
        """Of the present frames, float32 [N] in grey levels; None without a calibration."""
        if self._calibration is None:
            return None
        self._uncertainty += self._calibration.of_step(self._step.uncertainty)
        return self._calibration.expected_error(self._uncertainty)

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        """The actions that are fed: float32, 0 where not actuated and where no episode runs."""
        values = np.asarray(actions)
        if values.shape != (len(self.running), 7) or values.dtype.kind not in "fiu":
            raise UserError(
                f"actions are {values.dtype} of shape {values.shape}, need numbers of shape {(len(self.running), 7)}",
                f"give {', '.join(ACTION_NAMES)} for each of the {len(self.running)} episodes",
            )
        values = values.astype(np.float32)
        wrong = self.running[:, None] & ~((self.low <= values) & (values <= self.high))  # so written, NaN is wrong
        if wrong.any():
            row, dim = np.argwhere(wrong)[0]
            raise UserError(
                f"the action of episode {row} has {ACTION_NAMES[dim]} = {values[row, dim]:g}, outside of "
                f"{self.low[dim]:g} to {self.high[dim]:g}",
                "give physical units (m, rad; gripper 0 to 1), or clip to the action space: "
                "np.clip(action, env.action_space.low, env.action_space.high)",
            )
        return np.where(self.running[:, None] & self._actuated, values, np.float32(0))

    def frames(self) -> np.ndarray:
        """The present frames as the tokenizer decodes them, uint8 [N, H, W, 3], yours to change."""
        assert self._imagination is not None
        return self._imagination.frame().copy()

    def info(self, row: int) -> dict[str, Any]:
        """What is known of an episode's present frame, after a step with the model's word on it."""
        start, steps = self._begun[row], int(self._num_steps[row])
        assert start is not None
        info: dict[str, Any] = {"episode": start.episode, "instruction": start.instruction, "step": steps}
        info["tokens"] = self._tokens[row].copy()
        if steps:
            info["termination_probability"] = float(np.float32(self._step.terminated[row]))
            if self._step.uncertainty is not None:
                parts = self._step.uncertainty._asdict()
                info["uncertainty"] = {name: value[row].cpu().numpy()[()] for name, value in parts.items()}
            if self._error is not None:
                info["expected_error"] = float(self._error[row])
        return info
