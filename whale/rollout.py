"""Imagination: roll the world model forward in token space, one frame a step, from cached keys and values.

Prior and dynamics go along in a `TokenRollout`, a frame at a time; both attend through bands, so a cached rollout
equals a full recompute at any length (tests/test_rollout.py). Pixels are made when they are asked for, from the last
token frames. Nothing grows with the length of a rollout.

Legend: B episodes, K predictions of the same frame, R last token frames, S tokens a frame, V codes, F action features.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from whale.action_inputs import ActionInputs, check_context
from whale.errors import UserError
from whale.models.world_model import WorldModel
from whale.sampling import Sampling, TokenChoice
from whale.token_rollout import TokenRollout
from whale.uncertainty import Retracing, Uncertainty, merged_actions, refuse_unmergeable, uncertainty


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
        context_frames: uint8 [B, C, H, W, 3], C >= 1, and more than retracing goes back.
        context_actions: float32 [B, C - 1, 7] in physical units, between the context frames.
        dataset: name of the dataset whose action scales and embodiment apply.
        control_period_sec: time between frames.
        sampling: draw the tokens of imagined frames; None takes the expected ones (`expected_tokens`).
        retracing: estimate the uncertainty of every step, or of every n-th.
        keep: a dropout mask for the whole rollout (`Dynamics.draw_keep`); None is the mean model.

    `logits_BSV` holds what the last step was chosen from; `returns_B` (float64) the sum of expected rewards, each times
    the probability that the episode was still running; `running_B` that probability now; `num_imagined_B` the frames.

    Raises:
        UserError: the model does not know the dataset, the context does not fit, or actions cannot be merged.
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
        self._inputs = ActionInputs(model, dataset, control_period_sec)
        self.model, self._retracing = model, retracing
        self._steps = retracing.steps if retracing else (0,)
        if retracing:
            refuse_unmergeable(self._inputs.card)
        check_context(model, context_frames, context_actions, max(self._steps))
        batch, frames = context_frames.shape[:2]
        self._choice = TokenChoice(sampling, batch)
        self._rollout = TokenRollout(model, self._inputs.constant(batch), self._steps, keep)
        tokens = model.encode(context_frames.reshape(-1, *context_frames.shape[2:])).reshape(batch, frames, -1)
        tokens_BCS = torch.from_numpy(tokens).to(model.dynamics.position_RD.device)
        if frames > 1:
            self._rollout.begin(tokens_BCS[:, :-1], self._inputs.features(context_actions))
        num_recent = max(model.config.tokenizer.decoder_frames, max(self._steps) + 1)
        self._recent_BRS = tokens_BCS.new_zeros(batch, num_recent, tokens_BCS.shape[2])
        self._recent_BRS[:, -frames:] = tokens_BCS[:, -num_recent:]
        self._recent_actions = context_actions[:, frames - 1 - max(self._steps) :].copy()
        self.returns_B, self.running_B = np.zeros(batch), np.ones(batch)
        self.num_imagined_B = np.zeros(batch, np.int64)
        self._asked: tuple[np.ndarray, Tensor, NextFrame] | None = None
        """What the present frame was predicted from, physical actions and their features, and the prediction."""
        self._decoder, self._num_undecoded = model.tokenizer.decoder.new_cache(batch), frames
        self._frame: np.ndarray | None = None

    def predict(self, actions: np.ndarray) -> NextFrame:
        """What follows from physical actions, float32 [B, 7].

        The present stays the present until `accept` says which frame comes next; before that, other actions may be
        asked about in its place.
        """
        self._inputs.check(actions, (len(self._recent_BRS), 7))
        due = self._retracing is not None and self.num_imagined_B[0] % self._retracing.every == 0
        tokens_BKS, actions_BKA = self._recent_BRS[:, -1:], actions[:, None]
        if due:
            recent = [*self._recent_actions.swapaxes(0, 1), actions]
            actions_BKA = merged_actions(self._inputs.card, recent, self._steps)
            tokens_BKS = self._recent_BRS[:, [-1 - back for back in self._steps]]
        feature_BKF = self._inputs.features(actions_BKA)
        out = self._rollout.predict(tokens_BKS, feature_BKF)
        self.logits_BSV, row = out.logits_BTSV[:, 0], self._rollout.constant["embodiment"]
        reward_B = out.reward_BT[:, 0] * self.model.reward_std[row] + self.model.reward_mean[row]
        reward, terminated = torch.stack([reward_B, out.terminated_BT[:, 0].sigmoid()]).cpu().numpy()
        found = NextFrame(self.logits_BSV, reward, terminated, uncertainty(out.logits_BTSV) if due else None)
        self._asked = actions, feature_BKF[:, 0], found
        return found

    def accept(self, tokens_BS: Tensor) -> None:
        """Go on with these as the tokens of the frame that was predicted last, int64 [B, S].

        Raises:
            RuntimeError: nothing was predicted since the last frame, or since rows were forked or restarted.
        """
        if self._asked is None:
            raise RuntimeError("predict the next frame before one is accepted")
        actions, feature_BF, predicted = self._asked
        self._recent_BRS = torch.cat([self._recent_BRS[:, 1:], tokens_BS[:, None]], 1)
        self._rollout.advance(feature_BF)
        self._asked = None
        self._recent_actions = np.concatenate([self._recent_actions, actions[:, None]], 1)[:, 1:]
        self.returns_B = self.returns_B + self.running_B * predicted.reward
        self.running_B = self.running_B * (1.0 - predicted.terminated)
        self.num_imagined_B = self.num_imagined_B + 1
        self._num_undecoded += 1

    def step(self, actions: np.ndarray) -> ImaginedStep:
        """Imagine what follows from physical actions, float32 [B, 7]: predict, choose, accept.

        Raises:
            UserError: the actions have another shape, are not finite, or far from all that the dataset has.
        """
        out = self.predict(actions)
        tokens_BS = self._choice(out.logits_BSV, self.model.tokenizer)
        self.accept(tokens_BS)
        return ImaginedStep(tokens_BS.cpu().numpy(), out.reward, out.terminated, out.uncertainty)

    def frame(self) -> np.ndarray:
        """The present frame as pixels, uint8 [B, H, W, 3], decoded from the last R token frames."""
        if self._frame is None or self._num_undecoded:
            now_B1, frames = self._rollout.clock_B[:, None], self.model.config.tokenizer.decoder_frames
            if self._num_undecoded == 1 and self._frame is not None:
                frames, sight = 1, self._decoder.enter(now_B1)
            else:
                sight = self._decoder.window(now_B1 + torch.arange(1 - frames, 1, device=now_B1.device))
            self._frame = self.model.tokenizer.decode_last(self._recent_BRS[:, -frames:], sight).cpu().numpy()
            self._num_undecoded = 0
        return self._frame

    def fork(self, copies: int) -> "Imagination":
        """Every episode `copies` times, those of b at b * copies and on, with what has been seen; this one stays.

        The copies of an episode draw the same numbers, so that they differ by their actions alone.
        """
        index = np.arange(len(self._recent_BRS)).repeat(copies)
        other = copy.copy(self)
        at = torch.from_numpy(index).to(self._recent_BRS.device)
        other._rollout, other._choice = self._rollout.rows(at), self._choice.rows(index)
        other._recent_BRS, other._recent_actions = self._recent_BRS[at], self._recent_actions[index]
        other.returns_B, other.running_B = self.returns_B[index], self.running_B[index]
        other.num_imagined_B, other._asked = self.num_imagined_B[index], None
        other._decoder, other._frame = self._decoder.rows(at), None if self._frame is None else self._frame[index]
        return other

    def restart(
        self,
        rows: Sequence[int],
        context_frames: np.ndarray,
        context_actions: np.ndarray,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Begin other episodes in these rows, as a new `Imagination` would; the others do not notice.

        Args:
            rows: their indices, each once.
            context_frames: uint8 [rows, C, H, W, 3]; C need not be what it was.
            context_actions: float32 [rows, C - 1, 7].
            seeds: of what is drawn from now on; None goes on drawing.

        Raises:
            UserError: rows, contexts and seeds do not fit each other or this imagination; nothing has changed then.
        """
        index, keep, sampling = np.asarray(rows, np.int64), self._rollout.keep, self._choice.sampling
        once = len(np.unique(index)) == len(index) == len(context_frames)
        if not once or not np.isin(index, np.arange(len(self._recent_BRS))).all():
            raise UserError(
                f"rows {index.tolist()} of {len(self._recent_BRS)} restart with {len(context_frames)} contexts",
                "give each row once, and a context",
            )
        if seeds is not None and sampling is None:
            raise UserError(
                "rows restart with seeds, and nothing is drawn", "leave seeds out, or begin with `sampling`"
            )
        if self._retracing and self._retracing.every > 1:
            raise UserError("rows that restart are out of step with what is retraced", "set retracing.every to 1")
        at = torch.from_numpy(index).to(self._recent_BRS.device)
        new = Imagination(
            self.model, context_frames, context_actions, self._inputs.dataset, self._inputs.control_period_sec,
            sampling._replace(seeds=seeds) if sampling and seeds is not None else None, self._retracing,
            None if keep is None else keep[:, :, at],
        )  # fmt: skip
        if self._frame is not None and self._num_undecoded <= 1:  # the others' decoding streams on
            self._frame = self.frame().copy()
            self._frame[index] = new.frame()
            self._decoder.put(at, new._decoder)
        else:
            self._frame = None
        self._rollout.put(at, new._rollout)
        if seeds is not None:
            self._choice.put(index.tolist(), new._choice)
        self._recent_BRS[at], self._recent_actions[index] = new._recent_BRS, new._recent_actions
        for name in ("returns_B", "running_B", "num_imagined_B"):
            values_B = getattr(self, name).copy()
            values_B[index] = getattr(new, name)
            setattr(self, name, values_B)
        self._asked = None
