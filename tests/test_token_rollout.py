"""A CPU takes many streams through the model part by part; nobody notices."""

import numpy as np
import pytest
import torch
from tiny_model import random_model

from whale import token_rollout
from whale.rollout import Imagination
from whale.uncertainty import Retracing

BATCH = 5


def imagine(keep: bool) -> list[np.ndarray]:
    """All that five episodes give in six steps, the second of them restarted on the way."""
    rng = np.random.default_rng(0)
    model = random_model(dropout=0.5 if keep else 0.0)
    frames = rng.integers(0, 256, (BATCH, 3, 16, 16, 3), np.uint8)
    actions = rng.uniform(-0.05, 0.05, (BATCH, 8, 7)).astype(np.float32)
    mask = model.dynamics.draw_keep(lambda *shape: _uniform(rng, shape)) if keep else None
    imagination = Imagination(model, frames, actions[:, :2], "tabletop", 0.2, retracing=Retracing(), keep=mask)
    found = []
    for t in range(6):
        if t == 3:
            imagination.restart([1], frames[:1], actions[:1, :2])
        step = imagination.step(actions[:, 2 + t])
        found += [step.tokens, step.reward, step.terminated, step.uncertainty.divergence_mean.numpy()]
    return found


def _uniform(rng, shape):
    return torch.from_numpy(rng.random((BATCH, *shape)))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("places", [1, 70])  # one stream at a time, and 5 as 3 and 2
def test_parts(monkeypatch, places, keep):
    together = imagine(keep)
    monkeypatch.setattr(token_rollout, "CPU_PLACES", places)
    for whole, parts in zip(together, imagine(keep), strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-9)
