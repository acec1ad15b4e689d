"""Streams of token frames that the prior and the dynamics go along, each frame once: imagination without pixels.

Legend: B streams, T frames, K predictions of the same frame, S tokens a frame, F action features, Z embedding dim.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from whale.cuda_graph import Replayed
from whale.models.dynamics import ACTION_FEATURES, Prediction
from whale.models.world_model import WorldModel

CPU_PLACES = 1024
"""Token positions that a CPU takes through the model together: what a layer makes of more leaves its caches."""


class TokenRollout:
    """What the model remembers of B streams, each at its own frame.

    All of it is tensors of fixed shapes, changed in place, and no step looks at a value: on a GPU, `predict` becomes a
    CUDA graph.

    Args:
        model: the world model, in eval mode.
        constant: `control_period_sec` and `embodiment` of each stream, [B].
        steps: from how many frames back each frame is predicted, 0 (the ordinary prediction) first; see `predict`.
        keep: dropout mask of `Dynamics.draw_keep`.
    """

    def __init__(
        self, model: WorldModel, constant: dict[str, Tensor], steps: Sequence[int] = (0,), keep: Tensor | None = None
    ):
        batch, weight = len(constant["embodiment"]), model.dynamics.position_RD
        self.model, self.keep = model, keep
        self.constant = {name: constant[name] for name in ("control_period_sec", "embodiment")}
        self.back_K = torch.tensor(steps, device=weight.device)
        self.clock_B = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        """Index of the present frame."""
        self.previous_BF = weight.new_zeros(batch, ACTION_FEATURES)
        """The action before it, zero before the first."""
        self.dynamics = model.dynamics.transformer.new_cache(batch, max(steps), len(steps) - 1)
        self.prior = model.behavior.prior.new_cache(batch)
        self._replayed = Replayed()

    @torch.no_grad()
    def begin(self, tokens_BTS: Tensor, action_BTF: Tensor) -> None:
        """Feed the frames before the present one, each with the action after it, in one pass from the first on."""
        model, frames = self.model, tokens_BTS.shape[1]
        codes_BTSC = model.codes(tokens_BTS)
        before_BTF = torch.cat([torch.zeros_like(action_BTF[:, :1]), action_BTF[:, :-1]], 1)
        prior = model.behavior.infer_prior(model.behavior.summary(codes_BTSC), before_BTF, self.prior.begin(frames))
        x_BTRD = model.embed(codes_BTSC, action_BTF, prior.mean, self.constant)
        model.dynamics.look(x_BTRD, self.dynamics.begin(frames), self.keep)
        self.clock_B.fill_(frames)
        self.previous_BF.copy_(action_BTF[:, -1])

    @torch.no_grad()
    def predict(self, tokens_BKS: Tensor, action_BKF: Tensor) -> Prediction:
        """K predictions of the next frame in one pass.

        The first is the ordinary one, from the present frame. The k-th, of retracing, is from the frame `steps[k]`
        before it and the action that does what was done since: it sees what was there before its frame, and nothing
        sees it. All are given the behaviour at the present frame. Nothing is final before `advance`.
        """
        if tokens_BKS.device.type == "cuda":
            return self._replayed(self._predict, tokens_BKS, action_BKF)
        batch, copies = tokens_BKS.shape[:2]
        size = math.ceil(CPU_PLACES / (copies * len(self.model.dynamics.position_RD)))
        parts = [
            self._predict(tokens_BKS[first : first + size], action_BKF[first : first + size], first)
            for first in range(0, batch, size)
        ]
        return parts[0] if len(parts) == 1 else Prediction(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _predict(self, tokens_BKS: Tensor, action_BKF: Tensor, first: int = 0) -> Prediction:
        """Of some streams, from the one numbered `first` on."""
        model, part = self.model, slice(first, first + len(tokens_BKS))
        clock_B1, previous_B1F = self.clock_B[part, None], self.previous_BF[part, None]
        summary_B1D = model.behavior.summary(model.codes(tokens_BKS[:, :1]))
        z_B1Z = model.behavior.infer_prior(summary_B1D, previous_B1F, self.prior.enter(clock_B1, first)).mean
        z_BKZ = z_B1Z.expand(-1, tokens_BKS.shape[1], -1)
        sight = self.dynamics.enter(clock_B1 - self.back_K[: tokens_BKS.shape[1]], first)
        constant = {name: value[part] for name, value in self.constant.items()}
        keep = None if self.keep is None else self.keep[:, :, part]
        return model.predict(tokens_BKS, action_BKF, z_BKZ, constant, sight, keep)

    def advance(self, action_BF: Tensor) -> None:
        """Go on to the next frame, the present one being left by this action, the one it was predicted from."""
        self.clock_B += 1
        self.previous_BF.copy_(action_BF)

    def rows(self, index: Tensor) -> "TokenRollout":
        """These streams, in this order, apart from this rollout."""
        constant = {name: value[index] for name, value in self.constant.items()}
        keep = None if self.keep is None else self.keep[:, :, index]
        other = TokenRollout(self.model, constant, self.back_K.tolist(), keep)
        other.clock_B, other.previous_BF = self.clock_B[index], self.previous_BF[index]
        other.dynamics, other.prior = self.dynamics.rows(index), self.prior.rows(index)
        return other

    def put(self, index: Tensor, other: "TokenRollout") -> None:
        """Let the streams of another rollout take the places of these; all others stay as they are."""
        self.clock_B[index], self.previous_BF[index] = other.clock_B, other.previous_BF
        self.dynamics.put(index, other.dynamics)
        self.prior.put(index, other.prior)
