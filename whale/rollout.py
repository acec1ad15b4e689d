"""Imagination: roll the world model forward in token space, one frame a step, from cached keys and values.

The prior, the dynamics and the decoder each keep a cache of their temporal layers; a frame enters each once. All three
attend through bands, so a cached rollout equals a full recompute at any length (tests/test_rollout.py).
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from whale.errors import UserError
from whale.models.dynamics import Prediction, action_features
from whale.models.world_model import WorldModel
from whale.sampling import Sampling, expected_tokens, sampled_tokens
from whale.uncertainty import Retracing, Uncertainty


class NextFrame(NamedTuple):
    """What the model says of the next frame of B episodes, before one is chosen."""

    logits_BSV: Tensor
    """Of its tokens, on the model's device."""
    reward: np.ndarray
    """Expected reward of the action, physical units, float32 [B]."""
    terminated: np.ndarray
    """Probability that the next frame is terminal, float32 [B]."""
    uncertainty: Uncertainty | None
    """By retracing, where that is asked for and due."""


class ImaginedStep(NamedTuple):
    """One imagined transition of B episodes."""

    tokens: np.ndarray
    """Of the new frame, int64 [B, S]."""
    reward: np.ndarray
    """Expected reward of the action, physical units, float32 [B]."""
    terminated: np.ndarray
    """Probability that the new frame is terminal, float32 [B]."""
    uncertainty: Uncertainty | None = None
    """By retracing, where that is asked for and due."""


class Imagination:
    """B imagined episodes that go on from recorded context frames.

    Args:
        model: the world model, in eval mode.
        context_frames: uint8 [B, C, H, W, 3], C >= 1.
        context_actions: float32 [B, C - 1, 7] in physical units, between the context frames.
        dataset: name of the dataset whose action scales and embodiment apply.
        control_period_sec: time between frames.
        sampling: draw the tokens of imagined frames; None takes the expected ones (`expected_tokens`).
        retracing: estimate the uncertainty of every step.
        keep: a dropout mask for the whole rollout (`Dynamics.draw_keep`); None is the mean model.

    `logits_BSV` holds what the last step was chosen from, `returns_B` (float64) the sum of expected rewards, each times
    the probability of still running; that after the last step is `running_B`. `num_imagined_B` counts frames.

    Raises:
        UserError: the model does not know the dataset, or the actions do not fit the frames.
    """

    def __init__(
        self,
        model: WorldModel,
        context_frames: np.ndarray,
        context_actions: np.ndarray,
        dataset: str,
        control_period_sec: float,
        sampling: Sampling | None = None,
        retracing: Retracing | None = None,
        keep: Tensor | None = None,
    ):
        batch, frames = context_frames.shape[:2]
        if context_actions.shape != (batch, frames - 1, 7):
            raise UserError(
                f"context actions have shape {context_actions.shape}, the frames need {(batch, frames - 1, 7)}",
                "give one action between each two context frames",
            )
        if dataset not in model.config.datasets:
            raise UserError(
                f"the model was not trained on {dataset!r}, only on {sorted(model.config.datasets)}",
                "choose one of these, or adapt the model to the new data with `whale finetune world_model`",
            )
        if sampling:
            sampling.check(batch)
        self.model = model
        self._sampling, self._keep = sampling, keep
        self._generators = [torch.Generator().manual_seed(seed) for seed in sampling.seeds] if sampling else []
        self.returns_B, self.running_B = np.zeros(batch), np.ones(batch)
        self.num_imagined_B = np.zeros(batch, np.int64)
        self._device = model.dynamics.position_RD.device
        self._constant = model.action_inputs(dataset, batch, control_period_sec)
        self._scale = model.config.datasets[dataset].scale
        self._dynamics_cache = model.dynamics.transformer.new_cache()
        self._prior_cache = model.behavior.prior.new_cache()
        self._decoder_cache = model.tokenizer.decoder.new_cache()
        self._num_seen = self._num_decoded = 0
        self._previous_action: Tensor | None = None
        tokens = model.encode(context_frames.reshape(-1, *context_frames.shape[2:])).reshape(batch, frames, -1)
        self._tokens_BS = torch.from_numpy(tokens[:, 0]).to(self._device)
        self._undecoded = [self._tokens_BS]
        for t in range(frames - 1):
            self._feed(context_actions[:, t])
            self._see(torch.from_numpy(tokens[:, t + 1]).to(self._device))

    def _see(self, tokens_BS: Tensor) -> None:
        self._tokens_BS = tokens_BS
        self._undecoded.append(tokens_BS)

    @torch.no_grad()
    def _feed(self, actions: np.ndarray) -> Prediction:
        """Put the present frame and an action through prior and dynamics; the prediction of the next frame."""
        model, constant = self.model, self._constant
        if actions.shape != (len(self._tokens_BS), 7) or not np.isfinite(actions).all():
            raise UserError(
                f"actions are {actions.dtype} {actions.shape}, with finite values: {bool(np.isfinite(actions).all())}",
                f"give finite canonical actions of shape {(len(self._tokens_BS), 7)}",
            )
        scaled_B1A = torch.from_numpy(self._scale.scale(actions)).to(self.model.dynamics.position_RD)[:, None]
        mask_B1A = constant["actuated"].expand_as(scaled_B1A)
        feature_B1F = action_features(
            scaled_B1A * mask_B1A, mask_B1A, constant["action_status"], constant["action_type"]
        )
        tokens_B1S = self._tokens_BS[:, None]
        summary_B1D = model.behavior.summary(model.codes(tokens_B1S))
        previous = torch.zeros_like(feature_B1F) if self._previous_action is None else self._previous_action
        prior = model.behavior.infer_prior(summary_B1D, previous, self._num_seen, self._prior_cache)
        out = model.predict(
            tokens_B1S, feature_B1F, prior.mean, constant, self._num_seen, self._dynamics_cache, self._keep
        )
        self._previous_action = feature_B1F
        self._num_seen += 1
        return out

    def predict(self, actions: np.ndarray) -> NextFrame:
        """What follows from physical actions, float32 [B, 7]; `accept` says which frame it is to be."""
        out = self._feed(actions)
        self.logits_BSV = out.logits_BTSV[:, 0]
        row = self._constant["embodiment"]
        reward = (out.reward_BT[:, 0] * self.model.reward_std[row] + self.model.reward_mean[row]).cpu().numpy()
        self._predicted = NextFrame(self.logits_BSV, reward, out.terminated_BT[:, 0].sigmoid().cpu().numpy(), None)
        return self._predicted

    def accept(self, tokens_BS: Tensor) -> None:
        """Go on with these as the tokens of the predicted frame, int64 [B, S]."""
        self._see(tokens_BS)
        self.returns_B = self.returns_B + self.running_B * self._predicted.reward
        self.running_B = self.running_B * (1.0 - self._predicted.terminated)
        self.num_imagined_B = self.num_imagined_B + 1

    def step(self, actions: np.ndarray) -> ImaginedStep:
        """Imagine what follows from physical actions, float32 [B, 7]: predict, choose, accept."""
        out = self.predict(actions)
        self.accept(self.choose(out.logits_BSV))
        return ImaginedStep(self._tokens_BS.cpu().numpy(), out.reward, out.terminated, out.uncertainty)

    def choose(self, logits_BSV: Tensor) -> Tensor:
        """Tokens of the next frame as `sampling` says, int64 [B, S]."""
        if self._sampling is None:
            return expected_tokens(logits_BSV, self.model.tokenizer)
        return sampled_tokens(logits_BSV, self._sampling.temperature, self._generators, self._sampling.top_k)

    def fork(self, copies: int) -> "Imagination":
        """Every episode `copies` times, those of b at b * copies and on, with what has been seen; this one stays.

        The copies of an episode draw the same numbers, so that they differ by their actions alone.
        """

        def many(value: Tensor, dim: int = 0) -> Tensor:
            return value.repeat_interleave(copies, dim)

        other = copy.copy(self)
        other._constant = {name: v if name == "actuated" else many(v) for name, v in self._constant.items()}
        for name in ("_dynamics_cache", "_prior_cache", "_decoder_cache"):
            caches = copy.deepcopy(getattr(self, name))
            for cache in caches:
                cache.k, cache.v = (None if x is None else many(x) for x in (cache.k, cache.v))
            setattr(other, name, caches)
        other._tokens_BS, other._undecoded = many(self._tokens_BS), [many(x) for x in self._undecoded]
        other._previous_action = None if self._previous_action is None else many(self._previous_action)
        other._keep = None if self._keep is None else many(self._keep, 2)
        other._generators = [g.clone_state() for g in self._generators for _ in range(copies)]
        for name in ("returns_B", "running_B", "num_imagined_B"):
            setattr(other, name, getattr(self, name).repeat(copies))
        if not self._undecoded:
            other._frame = self._frame.repeat(copies, 0)
        return other

    def restart(
        self,
        rows: Sequence[int],
        context_frames: np.ndarray,
        context_actions: np.ndarray,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Begin other episodes in these rows; the others do not notice. To come with clocks of their own."""
        raise NotImplementedError

    def frame(self) -> np.ndarray:
        """The present frame as pixels, uint8 [B, H, W, 3]; every frame since the last call is decoded in one stream."""
        if self._undecoded:
            tokens_BTS = torch.stack(self._undecoded, 1)
            frames = self.model.tokenizer.decode(tokens_BTS, self._num_decoded, self._decoder_cache)
            self._num_decoded += len(self._undecoded)
            self._undecoded = []
            self._frame = frames[:, -1].cpu().numpy()
        return self._frame
