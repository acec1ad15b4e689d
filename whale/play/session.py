"""A session: one driven episode, and what each model imagines of it. Pure Python: the web knows it, it knows no web.

Steps are counted from the last context frame, which is step 0; step k is what came of action k - 1. Only actions are
kept as the truth: what a model imagined of them is made again where it is missing, so a step can be undone and the same
actions be given to another model.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from whale.actions import ACTION_NAMES, ActionStatus
from whale.episodes import action_range
from whale.errors import UserError
from whale.models.dataset_card import DatasetCard
from whale.play.catalogue import Catalogue, Recording
from whale.rollout import Imagination, ImaginedStep

FACTORS = ("divergence_mean", "divergence_top", "entropy", "mean", "top")
"""What is kept of an `Uncertainty`."""


class Shown(NamedTuple):
    """One imagined step; a number that is not finite is None."""

    reward: float | None
    """Expected reward of the action."""
    terminated: float | None
    """Probability that the frame is terminal."""
    uncertainty: dict[str, float | None] | None
    """By name of `FACTORS`, where the frame was retraced."""
    accumulated: float
    """Uncertainty up to here, as the calibration adds it up; 0 without calibration."""
    expected_error: float | None
    """The error that the calibration expects of it, grey levels."""
    error: float | None
    """Root mean square difference to the recorded frame through the tokenizer, grey levels; None past its end."""


class Run:
    """What one model imagines of the session's actions: `frames[k]` uint8 [H, W, 3] and `steps[k - 1]` at step k."""

    def __init__(self, name: str, catalogue: Catalogue, recording: Recording):
        self.model, self._gauge, self._recording = catalogue.models[name], catalogue.gauges[name], recording
        self._dataset, self._period = catalogue.dataset, catalogue.control_period_sec
        self._context = catalogue.config.context_frames
        self._imagination: Imagination | None = None
        self._recorded = self.model.decode(self.model.encode(recording.frames)[None])[0]
        self.frames: list[np.ndarray] = []
        self.steps: list[Shown] = []

    def catch_up(self, actions: list[np.ndarray]) -> None:
        """Imagine what is missing; whatever fails, the steps before it stay."""
        if self.frames and len(self.steps) == len(actions):
            return  # several steps are undone one by one, and only then gone through again
        imagination, self._imagination = self._imagination or self._start(actions[: len(self.steps)]), None
        for action in actions[len(self.steps) :]:
            step = imagination.step(action[None])
            frame = imagination.frame()[0]
            self.steps.append(self._shown(step, frame))
            self.frames.append(frame)
        self._imagination = imagination

    def _start(self, actions: list[np.ndarray]) -> Imagination:
        imagination = Imagination(
            self.model, self._recording.frames[None, : self._context],
            self._recording.actions[None, : self._context - 1], self._dataset, self._period,
            retracing=self._gauge.retracing,
        )  # fmt: skip
        if not self.frames:
            self.frames.append(imagination.frame()[0])
        for action in actions:
            imagination.step(action[None])
        return imagination

    def _shown(self, step: ImaginedStep, frame: np.ndarray) -> Shown:
        found = expected = error = None
        accumulated = self.steps[-1].accumulated if self.steps else 0.0
        if step.uncertainty is not None:
            found = {name: _finite(getattr(step.uncertainty, name)[0]) for name in FACTORS}
        if (calibration := self._gauge.calibration) is not None:
            accumulated += float(calibration.of_step(step.uncertainty).sum())
            expected = _finite(calibration.expected_error(np.array([accumulated]))[0])
        if (at := self._context + len(self.steps)) < len(self._recorded):
            error = float(np.sqrt(np.square(frame.astype(np.float64) - self._recorded[at]).mean()))
        return Shown(_finite(step.reward[0]), _finite(step.terminated[0]), found, accumulated, expected, error)

    def rewind(self, steps: int) -> None:
        """Forget what came after so many steps."""
        if steps < len(self.steps):
            self._imagination = None
            del self.steps[steps:], self.frames[steps + 1 :]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


class Session:
    """One driven episode under one of the catalogue's models.

    `view` is all that a page shows of it but pixels, as JSON values; it is replaced whole after every change, and
    `revision` counts the changes.
    """

    def __init__(self, catalogue: Catalogue, episode: int = 0, model: str | None = None):
        self.catalogue, self.revision = catalogue, 0
        self._begin(episode, next(iter(catalogue.models)) if model is None else model)

    def choose_episode(self, episode: int) -> None:
        """Start from another recorded episode.

        Raises:
            UserError: there is no such episode.
        """
        self._begin(episode, self.model)

    def _begin(self, episode: int, model: str) -> None:
        recording = self.catalogue.recording(episode)
        run = self._run(model, recording)
        run.catch_up([])
        self.episode, self.recording, self.runs = episode, recording, {model: run}
        self.actions: list[np.ndarray] = []
        self.drivers: list[str] = []
        self._show(model)

    def _run(self, model: str, recording: Recording) -> Run:
        if model not in self.catalogue.models:
            raise UserError(f"there is no model {model!r}", f"choose one of {', '.join(self.catalogue.models)}")
        return Run(model, self.catalogue, recording)

    def choose_model(self, model: str) -> None:
        """Show what another model imagines of the same actions.

        Raises:
            UserError: there is no such model.
        """
        self._show(model)

    def step(self, action: Any, driver: str = "you") -> None:
        """Imagine what follows from an action of 7 physical values; `driver` says whose it is.

        Raises:
            UserError: see `check_action`; or there are `max_steps`.
        """
        self._drive(check_action(action, self.catalogue.card(self.model)), driver)

    def follow(self) -> None:
        """Imagine what follows from the recorded action of this step, whatever its range.

        Raises:
            UserError: the recording has ended.
        """
        at = self.catalogue.config.context_frames - 1 + len(self.actions)
        if at >= len(self.recording.actions):
            raise UserError("the recording has ended", "drive on by hand, or rewind")
        self._drive(self.recording.actions[at], "recording")

    def rewind(self, steps: int) -> None:
        """Go back to an earlier step; 0 is the start.

        Raises:
            UserError: the episode has not come to that step.
        """
        if not 0 <= steps <= len(self.actions):
            raise UserError(f"there is no step {steps}", f"the episode has the steps 0 to {len(self.actions)}")
        del self.actions[steps:], self.drivers[steps:]
        for run in self.runs.values():
            run.rewind(steps)
        self._show(self.model)

    def _drive(self, action: np.ndarray, driver: str) -> None:
        limit = self.catalogue.config.max_steps
        if len(self.actions) >= limit:
            raise UserError(f"the episode has its {limit} steps", "rewind, or raise max_steps in the configuration")
        self.actions.append(action)
        self.drivers.append(driver)
        try:
            self._show(self.model)
        except BaseException:
            del self.actions[-1], self.drivers[-1]
            raise

    def _show(self, model: str) -> None:
        if model not in self.runs:
            self.runs[model] = self._run(model, self.recording)
        self.runs[model].catch_up(self.actions)
        self.model = model
        self.revision += 1
        self.view = self._describe()

    def same_actions(self) -> int:
        """Steps from the start on which the actions were the recorded ones, to the bit."""
        recorded = self.recording.actions[self.catalogue.config.context_frames - 1 :]
        pairs = zip(self.actions, recorded, strict=False)
        return next((k for k, (own, other) in enumerate(pairs) if not np.array_equal(own, other)),
                    min(len(self.actions), len(recorded)))  # fmt: skip

    def _describe(self) -> dict[str, Any]:
        start, rewards = self.catalogue.config.context_frames - 1, self.recording.rewards
        last = [np.ones(7), *self.recording.actions[:start], *self.actions][-1]  # before a single frame: open
        return {
            "revision": self.revision,
            "episode": self.episode,
            "model": self.model,
            "actions": [action.tolist() for action in self.actions],
            "drivers": list(self.drivers),
            "gripper": float(last[6]),
            "same_actions": self.same_actions(),
            "recorded_steps": len(self.recording.frames) - 1 - start,
            "recorded_rewards": None if rewards is None else rewards[start:].tolist(),
            "runs": {name: [step._asdict() for step in run.steps] for name, run in self.runs.items()},
        }

    def frame(self, model: str, step: int) -> np.ndarray:
        """The frame of a step, uint8 [H, W, 3]: imagined by a model, or with `recorded` for its name the recorded one.

        Raises:
            KeyError: the model has not imagined this episode.
            IndexError: there is no such step.
        """
        if step < 0:
            raise IndexError(step)
        if model == "recorded":
            return self.recording.frames[self.catalogue.config.context_frames - 1 + step]
        return self.runs[model].frames[step]


def check_action(action: Any, card: DatasetCard) -> np.ndarray:
    """An action as float32 [7], in physical units, 0 where the dataset does not move.

    Raises:
        UserError: it is no list of 7 finite numbers, or outside of `whale.episodes.action_range`.
    """
    remedy = f"give the 7 values {', '.join(ACTION_NAMES)}"
    try:
        values = np.asarray(action)
    except ValueError:  # lists of different lengths
        values = np.array(None)
    if values.dtype.kind not in "fiu":
        raise UserError("the action is no list of numbers", remedy)
    if values.shape != (7,):
        raise UserError(f"the action has shape {values.shape}", remedy)
    for name, value, low, high in zip(ACTION_NAMES, values, *action_range(card), strict=True):
        if not low <= value <= high:  # so written, NaN is wrong
            raise UserError(
                f"{name} of the action is {value:g}, outside of {low:g} to {high:g}",
                "give a value within: farther off the model has seen next to nothing",
            )
    return np.where([status == ActionStatus.ACTUATED for status in card.action_status], values, 0).astype(np.float32)
