"""A world on tokens whose transition is known in closed form, and world models of it that are perfect or wrong.

The state is in the first five of sixteen tokens: a tool's place x, y, z (on a ring of 32 codes), its heading in quarter
turns, and the gripper's command; all others stand still. Actions are in whole steps and quarter turns, told in the axes
of `base` or `tool`. A frame shows its tokens in the first row of its pixels.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from tiny_model import CARD, tiny_config
from torch import Tensor

from whale.models.dynamics import Prediction
from whale.models.world_model import WorldModel

CODES, TOKENS = 32, 16
WORLD = replace(CARD, action_low=(-1.0,) * 7, action_high=(1.0,) * 7, action_status=(2, 2, 2, 1, 1, 2, 2))


def moved(tokens: Tensor, actions: Tensor, frame: str) -> Tensor:
    """Tokens int64 [..., 16] after physical actions float [..., 7]: the world itself."""
    step = actions[..., :3].round().long()
    quarter = (actions[..., 5] / (np.pi / 2)).round().long()
    dx, dy = step[..., 0], step[..., 1]
    if frame == "tool":
        heading = tokens[..., 3] % 4
        cos, sin = (torch.tensor(values)[heading] for values in ([1, 0, -1, 0], [0, 1, 0, -1]))
        dx, dy = cos * dx - sin * dy, sin * dx + cos * dy
    new = tokens.clone()
    new[..., :3] = (tokens[..., :3] + torch.stack([dx, dy, step[..., 2]], -1)) % CODES
    new[..., 3] = (tokens[..., 3] + quarter) % 4
    new[..., 4] = actions[..., 6].round().long()
    return new


Belief = Callable[[Tensor, Tensor, str], Tensor]
"""Tokens int64 [B, T, 16], physical actions [B, T, 7] and their frame to probabilities [B, T, 16, 32]."""


def perfect(tokens: Tensor, actions: Tensor, frame: str) -> Tensor:
    """What is sure to come; images are a little noisy, always alike."""
    certain = torch.nn.functional.one_hot(moved(tokens, actions, frame), CODES).double()
    return 0.9 * certain + 0.1 / CODES


class KnownWorld(WorldModel):
    """Predicts what `belief` says, whatever its weights are."""

    def __init__(self, belief: Belief = perfect, frame: str = "base"):
        card = replace(WORLD, action_frame=frame)
        super().__init__(replace(tiny_config(), datasets={"world": card}))
        self.double().eval()
        self.belief, self.frame = belief, frame

    def encode(self, frames: np.ndarray) -> np.ndarray:
        return frames[:, 0, :, 0].astype(np.int64)

    def predict(self, tokens_BTS: Tensor, action_BTF: Tensor, *_: object, **__: object) -> Prediction:
        probabilities = self.belief(tokens_BTS, action_BTF[..., :7], self.frame)  # their scale is 1
        nothing_BT = torch.zeros(tokens_BTS.shape[:2], dtype=torch.float64)
        return Prediction(probabilities.log(), nothing_BT, nothing_BT)


def draw_actions(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Physical actions float32 [*shape, 7]."""
    actions = np.zeros((*shape, 7), np.float32)
    actions[..., :3] = rng.integers(-3, 4, (*shape, 3))
    actions[..., 5] = rng.integers(-1, 3, shape) * np.float32(np.pi / 2)
    actions[..., 6] = rng.integers(0, 2, shape)
    return actions


def record(rng: np.random.Generator, actions: np.ndarray, frame: str) -> tuple[np.ndarray, np.ndarray]:
    """What actions do, [B, T, 7]: frames uint8 [B, T + 1, 16, 16, 3], and their tokens int64 [B, T + 1, 16]."""
    batch, steps = actions.shape[:2]
    tokens = [torch.from_numpy(rng.integers(0, CODES, (batch, TOKENS)))]
    tokens[0][:, 3] %= 4
    for t in range(steps):
        tokens.append(moved(tokens[-1], torch.from_numpy(actions[:, t]), frame))
    told = torch.stack(tokens, 1).numpy()
    frames = np.zeros((batch, steps + 1, 16, 16, 3), np.uint8)
    frames[:, :, 0, :, 0] = told
    return frames, told
