"""Imagined episodes side by side, in one batched imagination: each begins, is counted and ends alone.

What the environments of `whale.env` step; it does not need Gymnasium.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whale.actions import ACTION_NAMES, ActionStatus
from whale.calibration import Calibration, calibration_for
from whale.clips.clip import ActionType, ClipInfo
from whale.config import configclass
from whale.errors import UserError
from whale.models.dataset_card import DatasetCard
from whale.models.world_model import WorldModel
from whale.rollout import Imagination
from whale.sampling import Sampling
from whale.starts import RecordedStarts
from whale.uncertainty import Retracing

RANGE = 1.5
"""How far actions may go, where the 1 % and 99 % quantiles of the data are 1: beyond, the model has seen next to
nothing."""


@configclass
class EnvConfig:
    """Where imagined episodes begin, how they go on, and when they end."""

    clips: Path
    """Folder of pixel clips, of a dataset that the model knows."""
    split: str = "val"
    """Episodes begin as those of this split do."""
    context_frames: int = 4
    """Recorded frames that the model sees first."""
    horizon: int = 50
    """Imagined frames after which an episode is truncated."""
    temperature: float | None = None
    """Draw the tokens of imagined frames, 0 the most likely ones; without it, the expected ones are taken."""
    retracing: Retracing | None = None
    """Estimate the uncertainty of every imagined frame."""
    max_error: float | None = None
    """Truncate an episode when a frame's expected error, root mean square in grey levels, is above this one."""

    def __post_init__(self) -> None:
        """Check what does not fit together."""
        if self.horizon < 1 or self.context_frames < 1:
            raise ValueError("horizon and context_frames must be at least 1")
        if self.retracing is not None and self.retracing.every != 1:
            raise ValueError("retracing.every must be 1: episodes side by side begin at times of their own")
        if self.retracing is None and self.max_error is not None:
            raise ValueError("max_error is held against the uncertainty: give retracing too")


def action_range(card: DatasetCard) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest action of a dataset in physical units, float32 [7] each.

    A motion reaches `RANGE` times its larger quantile in both directions, a pose or a joint angle `RANGE` times as far
    from the middle of the data as the quantiles are, a gripper from 0 to 1. What is not actuated is not read, and may
    be anything from -1 to 1.
    """
    actuated = np.array([status == ActionStatus.ACTUATED for status in card.action_status])
    quantiles = np.array([card.action_low, card.action_high], np.float32)
    moves = card.action_type in (ActionType.EEF_DELTA, ActionType.PLANAR)
    middle = np.where(actuated & (not moves), quantiles.mean(0), np.float32(0))
    reach = np.where(actuated, RANGE * np.abs(quantiles - middle).max(0), np.float32(1))
    low, high = middle - reach, middle + reach
    if card.action_type == ActionType.EEF_DELTA and actuated[6]:
        low[6], high[6] = 0, 1
    return low, high


class ImaginedEpisodes:
    """N imagined episodes; `running` bool [N] says which have begun and not ended.

    Args:
        model: the world model, in eval mode.
        config: what to imagine.
        num: N.

    Raises:
        UserError: see `RecordedStarts` and its `inputs`; or `max_error` is given, and the model has no calibration that
            fits and knows errors as large.
    """

    def __init__(self, model: WorldModel, config: EnvConfig, num: int):
        self.model, self.config = model, config
        self.starts = RecordedStarts(config.clips, config.split, config.context_frames)
        inputs = self.starts.inputs(model)
        self.dataset, self.control_period_sec = inputs.dataset, inputs.control_period_sec
        self.low, self.high = action_range(inputs.card)
        self._actuated = np.array([status == ActionStatus.ACTUATED for status in inputs.card.action_status])
        self._middle = np.mean([inputs.card.action_low, inputs.card.action_high], 0, np.float32)
        self._calibration = self._find_calibration()
        self._imagination: Imagination | None = None
        self._infos: list[ClipInfo] = [next(iter(self.starts.episodes.values())).info] * num
        self._tokens = np.zeros((num, model.config.tokenizer.tokens_per_frame), np.int64)
        self._num_steps, self._uncertainty = np.zeros(num, np.int64), np.zeros(num)
        self.running = np.zeros(num, bool)

    def _find_calibration(self) -> Calibration | None:
        """The one that fits; only `max_error` cannot do without."""
        if self.config.retracing is None:
            return None
        limit = self.config.max_error
        try:
            found = calibration_for(self.model, self.dataset, self.config.retracing)
        except UserError:
            if limit is not None:
                raise
            return None
        if limit is not None and limit >= found.error[-1]:
            raise UserError(
                f"max_error is {limit:g} grey levels, and the model's calibration knows errors up to "
                f"{found.error[-1]:g} only: no episode would end by it",
                "give a smaller one, or leave it out",
            )
        return found

    def begin(
        self, rows: Sequence[int], generators: Sequence[np.random.Generator], names: Sequence[str | None]
    ) -> None:
        """Begin other episodes in these rows, each as the recorded one of its name, or as one that is drawn.

        The first time, in all rows. A generator decides which episode, and what is drawn later: one at the same point
        gives the same in any row.

        Raises:
            UserError: there is no recorded episode of that name.
        """
        drawn = [(int(g.integers(len(self.starts.names))), int(g.integers(2**63))) for g in generators]
        found = [self.starts.names[i] if name is None else name for name, (i, _) in zip(names, drawn, strict=True)]
        clips, seeds = [self.starts.read(name) for name in found], [seed for _, seed in drawn]
        context = self.config.context_frames
        frames = np.stack([clip.frames[:context] for clip in clips if clip.frames is not None])
        actions = np.stack([clip.actions[: context - 1] for clip in clips])
        sampling = None if self.config.temperature is None else Sampling(self.config.temperature, seeds)
        if self._imagination is not None:  # kept for good: what it has recorded for a GPU serves every episode
            self._imagination.restart(rows, frames, actions, seeds if sampling else None)
        else:
            self._imagination = Imagination(
                self.model, frames, actions, self.dataset, self.control_period_sec, sampling, self.config.retracing
            )
        for row, clip in zip(rows, clips, strict=True):
            self._infos[row] = clip.info
        self._tokens[rows] = self.model.encode(frames[:, -1])
        self._num_steps[rows], self._uncertainty[rows], self.running[rows] = 0, 0, True

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Imagine the next frame of the running episodes; the others stay over, their actions are not read.

        An episode is terminated where the model holds that more likely than not; it is not drawn, so that the same
        actions give the same episode. It is truncated at the horizon, and where its expected error exceeds `max_error`.

        Args:
            actions: [N, 7], physical units.

        Returns:
            Reward float32 [N] (0 where none runs), terminated bool [N], truncated bool [N].

        Raises:
            UserError: none has begun, or actions are of another shape, not finite or out of range.
        """
        step = self._begun().step(self._checked(actions))
        self._tokens, self._terminated = step.tokens.copy(), step.terminated.astype(np.float32)
        self._num_steps[self.running] += 1
        terminated = self.running & (self._terminated > 0.5)
        truncated = self.running & (self._num_steps >= self.config.horizon)
        self._parts = {}
        if step.uncertainty is not None:
            self._parts = {name: value.cpu().numpy() for name, value in step.uncertainty._asdict().items()}
        if self._calibration is not None:
            self._uncertainty += self._calibration.of_step(step.uncertainty)
            self._error = self._calibration.expected_error(self._uncertainty)
            if self.config.max_error is not None:
                truncated |= self.running & (self._error > self.config.max_error)
        reward = np.where(self.running, step.reward, 0).astype(np.float32)
        self.running &= ~(terminated | truncated)
        return reward, terminated, truncated

    def _begun(self) -> Imagination:
        if self._imagination is None:
            raise UserError("no episode has begun", "call reset first")
        return self._imagination

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        """The actions that are fed: float32, amid the data's where no episode runs, and 0 where not actuated."""
        values = np.asarray(actions)
        if values.shape != (len(self.running), 7) or values.dtype.kind not in "fiu":
            raise UserError(
                f"actions are {values.dtype} of shape {values.shape}",
                f"give numbers of shape {(len(self.running), 7)}: {', '.join(ACTION_NAMES)} of each episode",
            )
        values = values.astype(np.float32)
        wrong = self.running[:, None] & ~((self.low <= values) & (values <= self.high))  # so written, NaN is wrong
        if wrong.any():
            row, i = np.argwhere(wrong)[0]
            raise UserError(
                f"the action of episode {row} has {ACTION_NAMES[i]} = {values[row, i]:g}, outside of "
                f"{self.low[i]:g} to {self.high[i]:g}",
                "give physical units (m, rad; gripper 0 to 1), or clip to the action space: "
                "np.clip(action, env.action_space.low, env.action_space.high)",
            )
        values = np.where(self.running[:, None], values, self._middle)
        return np.where(self._actuated, values, np.float32(0))

    def frames(self) -> np.ndarray:
        """The present frames as the tokenizer decodes them, uint8 [N, H, W, 3], the caller's own."""
        return self._begun().frame().copy()

    def info(self, row: int) -> dict[str, Any]:
        """What is known of an episode's present frame; `whale.env` lists it."""
        recorded, steps = self._infos[row], int(self._num_steps[row])
        info: dict[str, Any] = {"episode_id": recorded.episode, "instruction": recorded.instruction, "step": steps}
        info["tokens"] = self._tokens[row].copy()
        if steps:
            info["termination_probability"] = float(self._terminated[row])
            if self._parts:
                info["uncertainty"] = {name: value[row].copy() for name, value in self._parts.items()}
            if self._calibration is not None:
                info["expected_error"] = float(self._error[row])
        return info
