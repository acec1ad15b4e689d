"""Off by one, from training to imagination: a world whose every frame is decided by the frame and the action before it.

All patches of a frame have one of eight grey levels; an action of +1 or -1 moves to the next or the previous level, and
the reward says where it went. A model that pairs a frame with any other action than its own cannot imagine that.
"""

import numpy as np
import pytest
import torch
from tiny_model import CARD, tiny_config

from whale.models.world_model import WorldModel
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.dynamics_loss import DynamicsLossConfig
from whale.objectives.dynamics_objective import DynamicsObjective
from whale.objectives.noise import NO_NOISE
from whale.optim import OptimConfig, build_optimizers
from whale.rollout import Imagination

LEVELS = 8


def frames_of(levels: np.ndarray) -> np.ndarray:
    """Levels int [...] as uint8 images [..., 16, 16, 3]."""
    return np.broadcast_to((levels * 32)[..., None, None, None], (*levels.shape, 16, 16, 3)).astype(np.uint8)


def walk(num: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels int [num, steps] and the actions float32 [num, steps, 7] after each of them."""
    rng = np.random.default_rng(seed)
    direction = rng.choice([-1, 1], (num, steps))
    levels = (rng.integers(0, LEVELS, (num, 1)) + np.cumsum(direction, 1) - direction) % LEVELS
    actions = np.zeros((num, steps, 7), np.float32)
    actions[..., 0] = 0.05 * direction
    return levels, actions


@pytest.fixture(scope="module")
def trained() -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(tiny_config(band=2, depth=1))
    patches = model.tokenizer.patchify(torch.from_numpy(frames_of(np.arange(LEVELS))))
    codes = 3 * torch.nn.functional.one_hot(torch.arange(32) % 12, 12).float()
    codes[:LEVELS] = model.tokenizer.encode_patches(patches)[:, 0].detach()
    codes[LEVELS:] += 100.0  # out of the way
    model.tokenizer.quantizer.codebook_VC.copy_(codes)
    objective = DynamicsObjective(model, DynamicsLossConfig(noise=NO_NOISE), [])
    optimizers = build_optimizers(model, OptimConfig(name="adamw"))
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = 1e-2
    mask = torch.tensor([status == 2 for status in CARD.action_status])
    for step in range(250):
        levels, actions = walk(16, 6, step)
        shape = levels.shape
        batch = {
            "frames": torch.from_numpy(frames_of(levels)),
            "actions": torch.from_numpy(CARD.scale.scale(actions)) * mask,
            "action_mask": mask.expand(*shape, 7),
            "action_status": torch.tensor(CARD.action_status).expand(16, 7),
            "action_type": torch.zeros(16, dtype=torch.int64),
            "rewards": torch.from_numpy((actions[..., 0] > 0).astype(np.float32)),
            "reward_mask": torch.ones(shape, dtype=torch.bool),
            "terminated": torch.zeros(shape, dtype=torch.bool),
            "terminated_mask": torch.ones(shape, dtype=torch.bool),
            "valid": torch.ones(shape, dtype=torch.bool),
            "merged": torch.zeros(shape, dtype=torch.bool),
            "control_period_sec": torch.full((16,), 0.2),
            "embodiment": torch.zeros(16, dtype=torch.int64),
        }
        loss, _ = objective(batch, objective.counts(batch), ClipNoise(0, step, torch.arange(16)))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def imagine(model: WorldModel, levels: np.ndarray, actions: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [num, horizon, S] and rewards [num, horizon] imagined after `context` frames."""
    imagination = Imagination(model, frames_of(levels[:, :context]), actions[:, : context - 1], "tabletop", 0.2)
    steps = [imagination.step(actions[:, t]) for t in range(context - 1, actions.shape[1] - 1)]
    return np.stack([step.tokens for step in steps], 1), np.stack([step.reward for step in steps], 1)


@pytest.mark.parametrize("context", [1, 3])
def test_imagination_pairs_each_action_with_its_frame(trained, context):
    levels, actions = walk(20, 10, seed=10_000)
    tokens, rewards = imagine(trained, levels, actions, context)
    truth = levels[:, context:, None]
    assert (tokens == truth).mean() > 0.99
    assert np.abs(rewards - (actions[:, context - 1 : -1, 0] > 0)).max() < 0.25
    early, late = np.roll(actions, 1, axis=1), np.roll(actions, -1, axis=1)
    for shifted in (early, late):
        assert (imagine(trained, levels, shifted, context)[0] == truth).mean() < 0.7
